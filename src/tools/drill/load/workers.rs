//! Who works in a scenario: the one list of its workers.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Killable;
use super::device::{self, Device};
use super::lane::{Bearer, Lane, Road, Run, Who};
use super::operator;
use super::outcome;
use super::population::{Habit, Member, Population};
use crate::domain::random::Random;
use crate::lifecycle::tasks::Tasks;
use crate::tools::drill::evidence::{Attempt, Call};

/// What lanes are made from.
#[derive(Clone)]
struct Maker {
    population: Arc<Population>,
    run: Arc<Run>,
    history: mpsc::Sender<Attempt>,
    tasks: Tasks,
}

/// Starts all of them. The devices that may be killed.
pub(super) fn start(
    population: &Arc<Population>,
    run: &Arc<Run>,
    history: &mpsc::Sender<Attempt>,
    tasks: &Tasks,
) -> Vec<Killable> {
    let maker =
        Maker { population: population.clone(), run: run.clone(), history: history.clone(), tasks: tasks.clone() };
    let mut killable = Vec::new();
    for member in &population.devices {
        let who = Who::new(&member.name, Some(member.id));
        if member.habit == Habit::Usual {
            killable.push(Killable { device: member.id, killed: who.killed.clone() });
        }
        let lane =
            || maker.device_lane(member, &who, &population.office.target.device_urls, run.settings.reconnect_share);
        let device = Device { member: member.clone(), heart: lane(), sense: lane() };
        tasks.tracked(device.work());
    }
    for member in &population.late {
        let who = Who::new(&member.name, Some(member.id));
        let lane = maker.device_lane(member, &who, &population.office.target.device_urls, run.settings.reconnect_share);
        tasks.tracked(device::come_late(lane));
    }
    for (index, victim) in population.victims.iter().enumerate() {
        let done = maker.insisting(victim, 0);
        let suspender = Who::new(&format!("suspender-{}", index + 1), None);
        let lane = maker.operator_lane(suspender, &population.office.target.admin_urls);
        tasks.tracked(operator::suspend_and_resume(lane, victim.id, done));
    }
    if run.settings.revoked_devices_max > 0 {
        tasks.tracked(maker.clone().revocations());
    }
    let followed = population.followed.id;
    let changer = maker.operator_lane(Who::new("changer", None), &population.office.target.admin_urls);
    tasks.tracked(operator::change(changer, followed));
    for (index, url) in population.office.target.admin_urls.iter().enumerate() {
        let lane = maker.operator_lane(Who::probe(&format!("reader-{}", index + 1)), std::slice::from_ref(url));
        tasks.tracked(operator::read(lane, followed));
    }
    killable
}

impl Maker {
    fn device_lane(&self, member: &Member, who: &Who, urls: &[String], reconnect_share: f64) -> Lane {
        let transport = member.transport.reconnected();
        let road = Road { transport, urls: urls.into(), bearer: Bearer::Device(None), reconnect_share };
        self.lane(who.clone(), road)
    }

    fn operator_lane(&self, who: Who, urls: &[String]) -> Lane {
        let target = &self.population.office.target;
        let bearer = Bearer::Operator(target.admin_token.clone());
        let transport = self.population.anonymous.reconnected();
        self.lane(who, Road { transport, urls: urls.into(), bearer, reconnect_share: 0.0 })
    }

    fn lane(&self, who: Who, road: Road) -> Lane {
        // A source of its own: another worker's turn does not change what this one draws.
        let random = Random::seeded(self.population.office.place.random.bits());
        Lane::new(self.run.clone(), who, random, self.history.clone(), road)
    }

    /// A victim's connections: one to each endpoint that stays open, and one that is always new.
    /// `before`: attempts that it has made already.
    fn insisting(&self, victim: &Member, before: u64) -> CancellationToken {
        let (done, who) = (CancellationToken::new(), Who::victim(&victim.name, victim.id, before));
        let urls = &self.population.office.target.device_urls;
        for url in urls {
            let lane = self.device_lane(victim, &who, std::slice::from_ref(url), 0.0);
            self.tasks.tracked(operator::insist(lane, false, done.clone()));
        }
        let lane = self.device_lane(victim, &who, urls, 0.0);
        self.tasks.tracked(operator::insist(lane, true, done.clone()));
        done
    }

    /// Enrolls one device after the other, and revokes each.
    async fn revocations(self) {
        let mut lane = self.operator_lane(Who::new("revoker", None), &self.population.office.target.admin_urls);
        for _ in 0..self.run.settings.revoked_devices_max {
            let Some((guest, before)) = self.enrolled(&lane).await else { return };
            let done = self.insisting(&guest, before);
            lane = operator::revoke(lane, guest, done).await;
        }
    }

    /// A device that did not exist before, and the attempts that it took. `None`: the load ends.
    async fn enrolled(&self, lane: &Lane) -> Option<(Arc<Member>, u64)> {
        let name = self.population.next_guest();
        let urls = &self.population.office.target.device_urls;
        let mut failures = 0;
        loop {
            if lane.is_over() || self.run.stop.is_draining() {
                return None;
            }
            let sent_us = self.run.clock.boottime().as_us();
            let at = lane.random.below(urls.len());
            let url = urls.get(self.run.closed.open_from(urls, at, self.run.clock.boottime()))?;
            let work = self.population.enroll_guest(name.clone(), url);
            let result = tokio::select! {
                result = work => result,
                () = lane.over() => return None,
            };
            let number = u64::from(failures) + 1;
            let attempt = Attempt {
                client: name.clone(),
                device: result.as_ref().ok().map(|member| member.id),
                number,
                call: Call::Enroll,
                endpoint: url.clone(),
                sent_us,
                done_us: self.run.clock.boottime().as_us(),
                outcome: outcome::of_enrollment(result.as_ref().err()),
                replica: None,
                position: None,
                reused_connection: false,
                probe: false,
            };
            self.run.closed.learn(url, &attempt.outcome, self.run.clock.boottime());
            lane.note(attempt).await;
            if let Ok(member) = result {
                return Some((Arc::new(member), number));
            }
            if !lane.back_off(failures).await {
                return None;
            }
            failures += 1;
        }
    }
}
