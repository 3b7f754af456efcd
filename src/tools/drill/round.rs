//! One run of one scenario: load, fault, recovery, and the evidence of it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::check;
use super::collect;
use super::deployment::{Deployment, Injected, Member};
use super::evidence::{Absence, AloneSpan, BlindSpan, ClockStep, Evidence, Mark, MarkKind, Silenced, Terminated};
use super::load::{Load, Population, final_database};
use super::scenario::{Fault, FaultKind, Node, Scenario};
use super::screen::Screen;
use super::stalls::Watch;
use super::state::{State, Watcher};
use crate::domain::random::Random;
use crate::domain::time::Clock;
use crate::lifecycle::tasks::Tasks;

/// Between two renewals of a lease, by default: a fault meets any phase of it.
const LEASE_INTERVAL: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For so long around the beginning of a fault the load leaves no gaps.
const RUSH: Duration = Duration::from_secs(1);
/// It leads the fault by so much: each device has one request under way by then.
const RUSH_LEAD: Duration = Duration::from_millis(100);
/// How long what is not acknowledged is sent again in the end.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than a heartbeat's interval: by then every device was heard.
const ALL_HEARD: Duration = Duration::from_secs(3);
/// So much longer a run may go on for the device that fell silent in its beginning to be judged.
const SILENCE_WAIT_MAX: Duration = Duration::from_secs(30);

/// What all runs of a drill share.
pub struct Field {
    pub deployment: Deployment,
    pub watcher: Watcher,
    pub population: Arc<Population>,
    pub clock: Clock,
    pub tasks: Tasks,
    pub screen: Screen,
    /// Of the whole drill so far.
    pub absences: Vec<Absence>,
}

/// A fault that is in force.
struct Active {
    injected: Injected,
    until: Instant,
}

/// What one run notes while it goes on.
struct Notes {
    marks: Vec<Mark>,
    counts: BTreeMap<String, u64>,
    blind: Vec<BlindSpan>,
    clock_steps: Vec<ClockStep>,
    terminated: Vec<Terminated>,
    alone: Vec<AloneSpan>,
    /// Since then no standby runs.
    alone_since_us: Option<u64>,
    seen: State,
}

impl Field {
    /// Runs it once. `history`: where the load writes.
    ///
    /// # Errors
    /// When there is nothing to judge: the deployment was not well before, or the final database cannot be read.
    pub async fn run(&mut self, scenario: &Scenario, seed: u64, history: &Path) -> Result<Evidence, String> {
        let random = Random::seeded(seed);
        self.screen.phase(&scenario.name, "waiting until all is well");
        let healthy = self.watcher.healthy(&self.deployment, scenario.recovery_max).await;
        let state = healthy.map_err(|error| format!("not well before the fault: {error}"))?;
        let before = collect::samples(&self.deployment).await?;
        let wall_offset_us = self.clock.unix_us() - i64::try_from(self.now_us()).unwrap_or(i64::MAX);
        let started_us = self.now_us();
        let load = Load::start(self.population.clone(), history, &self.tasks).await.map_err(|e| e.to_string())?;
        let watch = Watch::begin(history.parent().unwrap_or(history), self.clock.clone());
        let mut notes = Notes {
            marks: Vec::new(),
            counts: BTreeMap::new(),
            blind: Vec::new(),
            clock_steps: Vec::new(),
            terminated: Vec::new(),
            alone: Vec::new(),
            alone_since_us: None,
            seen: state,
        };
        let synchronous_standbys = notes.seen.sync_standbys.len() as u64;
        let outcome = self.under_load(scenario, &random, &load, &mut notes).await;
        self.screen.phase(&scenario.name, "ending the load");
        let finished = load.finish(PATIENCE).await.map_err(|error| error.to_string());
        self.stop_if_told()?;
        let unfinished = outcome.err();
        // What comes after an unfinished run may fail for the same reason: both are told.
        let also = |error: String| unfinished.iter().cloned().chain([error]).collect::<Vec<_>>().join("; then: ");
        let (attempts, silenced) = finished.map_err(also)?;
        let (ended_us, stalls) = (self.now_us(), watch.end().await);
        self.screen.phase(&scenario.name, "collecting");
        let devices = self.population.device_ids();
        let since_unix_us = i64::try_from(started_us).unwrap_or(i64::MAX).saturating_add(wall_offset_us);
        let store = self.deployment.store();
        let database = final_database(&store, &devices, since_unix_us, collect::OPEN_LIMIT).await;
        let after = collect::samples(&self.deployment).await.map_err(also)?;
        Ok(Evidence {
            scenario: scenario.name.clone(),
            seed,
            started_us,
            ended_us,
            wall_offset_us,
            heartbeat_interval_ms: self.population.heartbeat_interval_ms(),
            attempts,
            beliefs: collect::beliefs(&self.deployment, &self.absences, started_us).await?,
            absences: self.absences.iter().filter(|away| away.until_us >= started_us).cloned().collect(),
            terminated: notes.terminated,
            silenced,
            database: database.map_err(|error| also(error.detail))?,
            leaks: collect::leaks(&before, after),
            marks: notes.marks,
            minimums: scenario.minimums.clone(),
            maximums: scenario.maximums.clone(),
            bounds: scenario.bounds.clone(),
            counts: notes.counts,
            blind: notes.blind,
            clock_steps: notes.clock_steps,
            alone: notes.alone,
            synchronous_standbys,
            unfinished,
            stalls,
        })
    }

    fn now_us(&self) -> u64 {
        self.clock.boottime().as_us()
    }

    /// From the warm-up to the cool-down. Whatever happens, no fault is left in force.
    async fn under_load(
        &mut self,
        scenario: &Scenario,
        random: &Random,
        load: &Load,
        notes: &mut Notes,
    ) -> Result<(), String> {
        self.screen.phase(&scenario.name, "warming up");
        acknowledged(load, 0, scenario.recovery_max).await?;
        // Before it was heard it is not online.
        self.pause(ALL_HEARD, load).await?;
        let silent = silence(load, 1, notes)?;
        self.pause(scenario.warm_up + random.scale(LEASE_INTERVAL, 0.0, 1.0), load).await?;
        silence(load, scenario.minimums.silenced, notes)?;
        let mut active = Vec::new();
        let outcome = self.faults(scenario, load, &mut active, notes).await;
        let mut errors: Vec<String> = outcome.err().into_iter().collect();
        while !active.is_empty() {
            errors.extend(self.undo(0, &mut active, notes).await.err());
        }
        if !errors.is_empty() {
            return Err(errors.join("; "));
        }
        self.screen.phase(&scenario.name, "waiting until all is well again");
        self.until_well(scenario, load, notes).await?;
        acknowledged(load, self.now_us(), scenario.recovery_max).await?;
        notes.marks.push(mark(self.now_us(), MarkKind::Healthy, "all is well again".to_owned()));
        self.screen.phase(&scenario.name, "cooling down");
        let due_us = silent.iter().map(|one| one.at_us + check::silence_seen_us(one.interval_ms)).max().unwrap_or(0);
        let left = Duration::from_micros(due_us.saturating_sub(self.now_us()));
        let until = Instant::now() + scenario.cool_down.max(left.min(SILENCE_WAIT_MAX));
        while Instant::now() < until {
            self.stop_if_told()?;
            // What changes now is a change of this run as well.
            self.look(load, notes).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn until_well(&mut self, scenario: &Scenario, load: &Load, notes: &mut Notes) -> Result<(), String> {
        let began = Instant::now();
        while let Some(complaint) = self.look(load, notes).await {
            if began.elapsed() > scenario.recovery_max {
                return Err(format!("not well {} s after the fault: {complaint}", scenario.recovery_max.as_secs()));
            }
            self.stop_if_told()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Injects and undoes in the scenario's order. A fault after all others are undone waits until all is well.
    async fn faults(
        &mut self,
        scenario: &Scenario,
        load: &Load,
        active: &mut Vec<Active>,
        notes: &mut Notes,
    ) -> Result<(), String> {
        let mut began = Instant::now();
        let mut pending = scenario.faults.iter().peekable();
        while pending.peek().is_some() || !active.is_empty() {
            self.stop_if_told()?;
            let now = Instant::now();
            if let Some(due) = active.iter().position(|fault| fault.until <= now) {
                self.undo(due, active, notes).await?;
                continue;
            }
            let first = active.is_empty() && notes.marks.iter().all(|mark| mark.what != MarkKind::FaultBegan);
            let next = pending.next_if(|fault| began.elapsed() >= fault.after);
            if let Some(fault) = next {
                if active.is_empty() && !first {
                    self.screen.phase(&scenario.name, "waiting until all is well, for the next fault");
                    self.until_well(scenario, load, notes).await?;
                    // What comes after this fault keeps its distance from it.
                    began += now.elapsed();
                }
                load.rush(RUSH);
                tokio::time::sleep(RUSH_LEAD).await;
                let injecting = Instant::now();
                self.inject(scenario, fault, active, notes).await?;
                // What takes long to be done does not draw the next fault near.
                began += injecting.elapsed();
                continue;
            }
            // A look at nodes that say nothing takes its whole limit, and what comes next does not wait for that.
            let times = pending.peek().map(|fault| began + fault.after);
            let next = times.into_iter().chain(active.iter().map(|fault| fault.until)).min();
            let look = async {
                self.look(load, notes).await;
                tokio::time::sleep(LOOK_EVERY).await;
            };
            let _ = tokio::time::timeout_at(next.unwrap_or(now + LOOK_EVERY), look).await;
        }
        Ok(())
    }

    async fn inject(
        &mut self,
        scenario: &Scenario,
        fault: &Fault,
        active: &mut Vec<Active>,
        notes: &mut Notes,
    ) -> Result<(), String> {
        let text = format!("{:?} of {:?}", fault.kind, fault.node);
        self.screen.phase(&scenario.name, &text);
        let injected = self.deployment.inject(fault, &notes.seen, &self.clock).await;
        let injected = injected.map_err(|error| format!("{text}: {error}"))?;
        let members: Vec<String> = injected.members.iter().map(ToString::to_string).collect();
        notes.marks.push(mark(injected.began_us, MarkKind::FaultBegan, format!("{text} ({})", members.join(", "))));
        if fault.kind == FaultKind::Terminate {
            let ended = |replica: &Uuid| Terminated { replica: *replica, at_us: injected.began_us };
            notes.terminated.extend(injected.replicas.iter().map(ended));
        }
        active.push(Active { injected, until: Instant::now() + fault.hold });
        self.note_alone(active, self.now_us(), notes);
        Ok(())
    }

    /// Does a standby run, with these faults in force from now on?
    fn note_alone(&self, active: &[Active], at_us: u64, notes: &mut Notes) {
        let in_force = active.iter().map(|one| (&one.injected.fault, one.injected.members.as_slice()));
        let (hosts, works_alone) = (self.deployment.store().hosts.len(), self.deployment.successor_works_alone());
        if !is_alone(in_force, hosts, works_alone) {
            let ended = notes.alone_since_us.take().map(|from_us| AloneSpan { from_us, until_us: at_us });
            notes.alone.extend(ended);
        } else if notes.alone_since_us.is_none() {
            notes.alone_since_us = Some(at_us);
        }
    }

    async fn undo(&mut self, at: usize, active: &mut Vec<Active>, notes: &mut Notes) -> Result<(), String> {
        let mut injected = active.remove(at).injected;
        let fault = injected.fault.clone();
        let at_us = self.now_us();
        self.note_alone(active, at_us, notes);
        let absences = self.deployment.undo(&mut injected, &self.clock).await;
        let text = format!("{:?} of {:?} undone", fault.kind, fault.node);
        self.absences.extend(absences.map_err(|error| format!("{text}, but: {error}"))?);
        notes.blind.extend(injected.blind(self.now_us()));
        notes.clock_steps.extend(injected.clock_step(self.now_us()));
        for (name, count) in std::mem::take(&mut injected.counts) {
            *notes.counts.entry(name).or_default() += count;
        }
        // A fault without a duration ended when it began.
        let at_us = if fault.hold.is_zero() { injected.began_us } else { at_us };
        notes.marks.push(mark(at_us, MarkKind::FaultEnded, text));
        Ok(())
    }

    /// Looks once, and marks what has changed; what is not well.
    async fn look(&mut self, load: &Load, notes: &mut Notes) -> Option<String> {
        if notes.alone_since_us.is_some() {
            // Who has a session already is in; the others are to get in, too.
            self.watcher.forget_sessions();
        }
        let state = self.watcher.look(&self.deployment).await;
        if notes.alone_since_us.is_some() && state.primary.is_some() {
            *notes.counts.entry("entered_alone".to_owned()).or_default() += 1;
        }
        self.screen.live(&state, load.live());
        let complaint = state.complaint(self.deployment.store().hosts.len() - 1);
        notes.take(state, self.now_us());
        complaint
    }

    async fn pause(&mut self, span: Duration, load: &Load) -> Result<(), String> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            self.stop_if_told()?;
            self.screen.counts(load.live());
            tokio::time::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
        }
        Ok(())
    }

    fn stop_if_told(&self) -> Result<(), String> {
        if self.tasks.shutdown().is_draining() { Err("stopped".to_owned()) } else { Ok(()) }
    }
}

impl Notes {
    /// Marks what has changed. Only a name that replaces another is a change; a gap in between is not one more.
    fn take(&mut self, state: State, at_us: u64) {
        if let Some(primary) = state.primary {
            if self.seen.primary.is_some_and(|before| before != primary) {
                self.marks.push(mark(at_us, MarkKind::Primary, format!("pg{primary} is primary")));
            }
            self.seen.primary = Some(primary);
        }
        if let (Some(leader), Some(id)) = (state.leader, state.leader_id) {
            if self.seen.leader_id.is_some_and(|before| before != id) {
                self.marks.push(mark(at_us, MarkKind::Leader, format!("replica {leader} leads")));
            }
            (self.seen.leader, self.seen.leader_id) = (Some(leader), Some(id));
        }
        if state.primary.is_some() {
            self.seen = State { leader: self.seen.leader, leader_id: self.seen.leader_id, ..state };
        }
    }
}

/// Lets so many devices fall silent, and marks it.
fn silence(load: &Load, count: u64, notes: &mut Notes) -> Result<Vec<Silenced>, String> {
    let silenced = load.silence(usize::try_from(count).unwrap_or(usize::MAX));
    if (silenced.len() as u64) < count {
        return Err(format!("{count} devices were to fall silent, and only {} are left", silenced.len()));
    }
    let said = |one: &Silenced| mark(one.at_us, MarkKind::Note, format!("{} falls silent", one.device));
    notes.marks.extend(silenced.iter().map(said));
    Ok(silenced)
}

async fn acknowledged(load: &Load, since_us: u64, limit: Duration) -> Result<(), String> {
    let waited = tokio::time::timeout(limit, load.wait_acknowledged_since(since_us)).await;
    waited.map_err(|_| format!("no reading was acknowledged within {} s", limit.as_secs()))
}

fn mark(at_us: u64, what: MarkKind, text: String) -> Mark {
    Mark { at_us, what, text }
}

/// At most one of the database nodes is left, by these faults: whoever commits has nobody beside it. `works_alone`: a
/// successor does so all the same.
fn is_alone<'a>(
    in_force: impl Iterator<Item = (&'a Fault, &'a [Member])> + Clone,
    hosts: usize,
    works_alone: bool,
) -> bool {
    let gone = in_force.filter(|(fault, _)| fault.takes_away());
    let members = gone.clone().flat_map(|(_, members)| members);
    let away: HashSet<&Member> = members.filter(|member| matches!(member, Member::Database(_))).collect();
    let is_primary_gone = gone.clone().any(|(fault, _)| fault.node == Node::Primary);
    hosts > 1 && away.len() + 1 >= hosts && !(is_primary_gone && works_alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In force; alone of three nodes, of two, of two whose successor works alone.
    type Case<'a> = (&'a [(&'a Fault, &'a [Member])], bool, bool, bool);

    #[test]
    fn who_has_nobody_beside_it_is_alone() {
        let fault = |kind, node| Fault::new(kind, node, Duration::from_secs(1));
        let (primary, standby) = (fault(FaultKind::Kill, Node::Primary), fault(FaultKind::Stop, Node::SyncStandby));
        let (standbys, frozen) =
            (fault(FaultKind::Pause, Node::Standbys), fault(FaultKind::FreezeHost, Node::Standbys));
        let waits = fault(FaultKind::TerminateSyncWaits, Node::Primary);
        let (replica, restart) =
            (fault(FaultKind::Kill, Node::Leader), fault(FaultKind::PostmasterKill, Node::Primary));
        let [one, two, three] = [1, 2, 3].map(Member::Database);
        let both = [two, three];
        let cases: [Case<'_>; 10] = [
            (&[], false, false, false),
            (&[(&primary, &[one])], false, true, false),
            (&[(&standby, &[two])], false, true, true),
            (&[(&standby, &[two]), (&primary, &[one])], true, true, false),
            (&[(&standby, &[two]), (&standby, &[two])], false, true, true),
            (&[(&standbys, &both)], true, true, true),
            (&[(&frozen, &both), (&waits, &[one])], true, true, true),
            (&[(&standbys, &both), (&primary, &[one])], true, true, false),
            (&[(&replica, &[Member::Replica(1)]), (&replica, &[Member::Replica(2)])], false, false, false),
            (&[(&restart, &[one]), (&waits, &[one])], false, false, false),
        ];
        for (in_force, of_three, of_two, of_a_pair) in cases {
            let alone = |hosts, works_alone| is_alone(in_force.iter().copied(), hosts, works_alone);
            let found = (alone(3, false), alone(2, false), alone(2, true));
            assert_eq!(found, (of_three, of_two, of_a_pair), "{in_force:?}");
            assert!(!alone(1, false), "a single node never had one");
        }
    }
}
