//! Cutting the network of a container: packets are dropped inside its own network, by rules in chains of our own, so
//! that nothing else is touched and leftovers are known by their name.

use super::engine::Engine;
use crate::tools::drill::scenario::Cut;

const CHAIN_IN: &str = "EVERBEAT-DRILL-IN";
const CHAIN_OUT: &str = "EVERBEAT-DRILL-OUT";

/// Which packets are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    Everybody,
    /// Whoever listens on one of these ports.
    Ports(Vec<u16>),
}

/// Runs beside the containers, with iptables.
#[derive(Clone)]
pub struct Cutter {
    pub engine: Engine,
    pub project: String,
    pub image: String,
}

impl Cutter {
    /// Returns when the first packet may have been dropped, microseconds of CLOCK_BOOTTIME. Starting a container takes
    /// a second and is no part of the fault.
    pub async fn cut(&self, id: &str, cut: Cut, peers: &Peers) -> Result<u64, String> {
        let said = self.run(id, &rules(cut, peers)).await?;
        uptime_us(&said).ok_or_else(|| format!("a side container did not say when it cut the network: {said:?}"))
    }

    /// Removes the rules; that there are none is well, too.
    pub async fn mend(&self, id: &str) -> Result<(), String> {
        self.run(id, &mending()).await.map(drop)
    }

    async fn run(&self, id: &str, script: &str) -> Result<String, String> {
        let output = self.engine.beside(id, &self.project, &self.image, script).await?;
        output.success("iptables")
    }
}

/// `seconds.hundredths idle`, as the kernel counts them since it booted.
fn uptime_us(uptime: &str) -> Option<u64> {
    let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
    let part: u64 = hundredths.parse().ok().filter(|_| hundredths.len() == 2)?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(part * 10_000)
}

/// The jump into a chain comes last, so that a direction is cut in one moment; the time is told just before.
fn rules(cut: Cut, peers: &Peers) -> String {
    let mut script = vec!["set -eu".to_owned(), mending()];
    if matches!(cut, Cut::In | Cut::Both) {
        script.extend(chain(CHAIN_IN, "-i", "--sport", peers));
    }
    if matches!(cut, Cut::Out | Cut::Both) {
        script.extend(chain(CHAIN_OUT, "-o", "--dport", peers));
    }
    script.push("cat /proc/uptime".to_owned());
    if matches!(cut, Cut::In | Cut::Both) {
        script.push(format!("iptables -w -I INPUT 1 -j {CHAIN_IN}"));
    }
    if matches!(cut, Cut::Out | Cut::Both) {
        script.push(format!("iptables -w -I OUTPUT 1 -j {CHAIN_OUT}"));
    }
    script.join("\n")
}

fn chain(name: &str, interface: &str, port: &str, peers: &Peers) -> Vec<String> {
    let mut lines = vec![format!("iptables -w -N {name}"), format!("iptables -w -A {name} {interface} lo -j RETURN")];
    match peers {
        Peers::Everybody => lines.push(format!("iptables -w -A {name} -j DROP")),
        Peers::Ports(ports) => {
            lines.extend(ports.iter().map(|at| format!("iptables -w -A {name} -p tcp {port} {at} -j DROP")));
        }
    }
    lines
}

fn mending() -> String {
    [("INPUT", CHAIN_IN), ("OUTPUT", CHAIN_OUT)]
        .map(|(from, name)| {
            // A drill that died may have left more than one jump.
            let jump = format!("while iptables -w -D {from} -j {name} 2>/dev/null; do :; done");
            let removal = format!("if iptables -w -F {name} 2>/dev/null; then iptables -w -X {name}; fi");
            format!("{jump}\n{removal}")
        })
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_chain_and_spares_the_loopback() {
        let only_in = rules(Cut::In, &Peers::Everybody);
        assert!(only_in.contains("-A EVERBEAT-DRILL-IN -i lo -j RETURN\niptables -w -A EVERBEAT-DRILL-IN -j DROP"));
        assert!(only_in.ends_with("-I INPUT 1 -j EVERBEAT-DRILL-IN"));
        assert!(!only_in.contains("-N EVERBEAT-DRILL-OUT") && !only_in.contains("-I OUTPUT"));
        let only_out = rules(Cut::Out, &Peers::Everybody);
        assert!(only_out.ends_with("-I OUTPUT 1 -j EVERBEAT-DRILL-OUT") && !only_out.contains("-I INPUT"));
        let both = rules(Cut::Both, &Peers::Everybody);
        let made = both.find("-N EVERBEAT-DRILL-OUT").unwrap();
        let told = both.find("cat /proc/uptime").unwrap();
        assert!(made < told, "both chains are whole before the first packet is dropped");
        assert!(told < both.find("-I INPUT").unwrap(), "the time is told before that");
    }

    #[test]
    fn the_uptime_is_read_to_the_hundredth() {
        assert_eq!(uptime_us("5061.07 9034.80\n"), Some(5_061_070_000));
        for bad in ["", "5061", "5061.7 1.00", "x.07 1.00", "iptables: no"] {
            assert_eq!(uptime_us(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_cut_from_some_ports_drops_only_those() {
        let script = rules(Cut::Both, &Peers::Ports(vec![5432, 6432]));
        for wanted in ["IN -p tcp --sport 5432 -j DROP", "OUT -p tcp --dport 6432 -j DROP"] {
            assert!(script.contains(wanted), "{script}");
        }
        assert!(!script.contains("IN -j DROP") && !script.contains("OUT -j DROP"));
    }

    #[test]
    fn mending_names_nothing_but_our_own_chains() {
        for line in mending().lines() {
            assert!(line.contains("EVERBEAT-DRILL-"), "{line}");
        }
    }
}
