//! What people see while a drill runs: on a terminal one line that lives, elsewhere a line for each step.

use std::io::{IsTerminal, Write};

use super::load::Live;
use super::state::State;

pub struct Screen {
    lives: bool,
    scenario: String,
    phase: String,
    who: String,
}

impl Default for Screen {
    fn default() -> Self {
        let lives = std::io::stderr().is_terminal();
        Self { lives, scenario: String::new(), phase: String::new(), who: String::new() }
    }
}

impl Screen {
    /// What begins now.
    pub fn phase(&mut self, scenario: &str, what: &str) {
        scenario.clone_into(&mut self.scenario);
        what.clone_into(&mut self.phase);
        let mut out = std::io::stderr();
        let _ = if self.lives {
            write!(out, "\r\x1b[K{scenario}: {what} …").and_then(|()| out.flush())
        } else {
            writeln!(out, "drill: {scenario}: {what}")
        };
    }

    /// A line that stays.
    pub fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}{text}", if self.lives { "\r\x1b[K" } else { "" });
    }

    pub fn live(&mut self, state: &State, live: Live) {
        let name = |number: Option<u8>| number.map_or("none".to_owned(), |number| number.to_string());
        self.who = format!("primary {}, leader {}", name(state.primary), name(state.leader));
        self.counts(live);
    }

    pub fn counts(&self, live: Live) {
        if !self.lives {
            return;
        }
        let mut out = std::io::stderr();
        let counts = format!(
            "readings {}, errors {}, in flight {}, silent {}",
            live.readings,
            live.errors(),
            live.in_flight,
            live.silenced
        );
        let _ = write!(out, "\r\x1b[K{}: {} · {} · {counts}", self.scenario, self.phase, self.who);
        let _ = out.flush();
    }
}
