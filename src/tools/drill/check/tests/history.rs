//! A run as it should be: the leader is killed at 30 s, another takes over, writes stand still for a while, some
//! answers are lost and their readings sent again; one device falls silent, one is suspended and resumed.

use std::collections::{BTreeMap, HashMap};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::tools::drill::evidence::{
    Absence, Attempt, BeliefSpan, Call, Effect, Evidence, FinalDatabase, Item, LeakSample, Mark, MarkKind, Outcome,
    PresenceEvent, Silenced, StoredReading,
};
use crate::tools::drill::scenario::{Bounds, Maximums, Minimums};
use crate::tools::drill::stalls::Stalls;

pub const SECOND: u64 = 1_000_000;
/// The run's beginning on CLOCK_BOOTTIME.
pub const START: u64 = 5_000 * SECOND;
pub const WALL_OFFSET: i64 = 1_790_000_000_000_000;
pub const FAULT: u64 = START + 30 * SECOND;
pub const END: u64 = START + 100 * SECOND;
pub const INTERVAL_MS: u64 = 2_000;
pub const SILENCED_AT: u64 = START + 20 * SECOND;
pub const RESOURCE: &str = "twin/1";

pub fn unix(us: u64) -> i64 {
    i64::try_from(us).expect("it is small") + WALL_OFFSET
}

pub fn replica(number: u128) -> Uuid {
    Uuid::from_u128(0xA000 + number)
}

pub fn device(number: u128) -> Uuid {
    Uuid::from_u128(0xD000 + number)
}

/// The silent one and the suspended one come after the `devices` that work all the time.
pub fn silent(devices: u128) -> Uuid {
    device(devices)
}

pub fn suspended(devices: u128) -> Uuid {
    device(devices + 1)
}

pub fn acknowledged() -> Outcome {
    Outcome::Acknowledged { status: 200, stored: 0, duplicates: 0, rejected: 0, degraded: false, next_in_ms: None }
}

pub fn stored(stored: u64, duplicates: u64) -> Outcome {
    Outcome::Acknowledged { status: 200, stored, duplicates, rejected: 0, degraded: false, next_in_ms: None }
}

/// A valid run of so many devices; `seed` decides what happens to each request.
pub fn valid(seed: u64, devices: u128) -> Evidence {
    let mut writer =
        Writer { rng: StdRng::seed_from_u64(seed), attempts: Vec::new(), numbers: HashMap::new(), rows: Vec::new() };
    let outage = writer.rng.random_range(SECOND / 2..4 * SECOND);
    for number in 0..devices + 2 {
        writer.device(number, devices, outage);
    }
    writer.operator(outage);
    writer.suspension(suspended(devices));
    let Writer { attempts, rows, mut rng, .. } = writer;
    let takeover = FAULT + rng.random_range(SECOND / 10..2 * SECOND);
    Evidence {
        scenario: "leader-kill".to_owned(),
        seed,
        started_us: START,
        ended_us: END,
        wall_offset_us: WALL_OFFSET,
        heartbeat_interval_ms: INTERVAL_MS,
        attempts,
        beliefs: beliefs(takeover),
        absences: vec![absence(replica(1), FAULT, FAULT + 15 * SECOND, false)],
        terminated: Vec::new(),
        silenced: vec![Silenced { device: silent(devices), at_us: SILENCED_AT, interval_ms: INTERVAL_MS }],
        database: FinalDatabase {
            readings: rows,
            effects: effects(&mut rng),
            presence: presence(devices),
            outages: Vec::new(),
            timeline: 1,
        },
        leaks: vec![leak("replica 1", "process.fds", 40.0, 43.0), leak("database", "database.locks", 2.0, 2.0)],
        marks: marks(takeover),
        minimums: Minimums { acknowledged: 50, leader_changes: 1, silenced: 1, revocations: 1, ..Minimums::default() },
        maximums: Maximums::default(),
        counts: BTreeMap::from([("leader_changes".to_owned(), 1)]),
        blind: Vec::new(),
        clock_steps: Vec::new(),
        alone: Vec::new(),
        synchronous_standbys: 0,
        unfinished: None,
        stalls: Stalls::default(),
        bounds: Bounds::default(),
    }
}

struct Writer {
    rng: StdRng,
    attempts: Vec<Attempt>,
    numbers: HashMap<String, u64>,
    rows: Vec<StoredReading>,
}

impl Writer {
    fn add(&mut self, client: &str, device: Option<Uuid>, call: Call, sent_us: u64, outcome: Outcome) -> u64 {
        let number = self.numbers.entry(client.to_owned()).and_modify(|number| *number += 1).or_insert(1);
        let answered = matches!(outcome, Outcome::Acknowledged { .. } | Outcome::Refused { .. });
        let done_us = sent_us + self.rng.random_range(1_000..60_000);
        let survivor = if self.rng.random_bool(0.5) { replica(2) } else { replica(3) };
        let by = if done_us < FAULT && self.rng.random_bool(0.4) { replica(1) } else { survivor };
        self.attempts.push(Attempt {
            client: client.to_owned(),
            device,
            number: *number,
            call,
            endpoint: "https://127.0.0.1:18443".to_owned(),
            sent_us,
            done_us,
            outcome,
            replica: answered.then_some(by),
            // The change log moves on with time, and is noted before the request is judged.
            position: answered.then(|| format!("1:{}", 700 + (sent_us - START) / 50_000)),
            reused_connection: true,
            probe: false,
        });
        *number
    }

    /// Heartbeats and batches of one device. In the outage nothing is acknowledged, and some of it is done anyway.
    fn device(&mut self, number: u128, devices: u128, outage: u64) {
        let (id, client) = (device(number), format!("pump-{number}"));
        let until = if id == silent(devices) { SILENCED_AT } else { END - 10 * SECOND };
        let (mut at, mut n) = (START + self.rng.random_range(0..SECOND), 0);
        while at < until && id != suspended(devices) {
            let is_out = (FAULT..FAULT + outage).contains(&at);
            let beat = if is_out { self.failure() } else { self.promise() };
            self.add(&client, Some(id), Call::Heartbeat, at, beat);
            let items: Vec<Item> = (0..self.rng.random_range(1..6_u64))
                .map(|k| Item { n: n + k + 1, ts_unix_us: unix(at) + i64::try_from(k).expect("small") })
                .collect();
            n += items.len() as u64;
            let fails = is_out || self.rng.random_bool(0.05);
            self.batch(&client, id, &items, at + 200_000, fails);
            at += self.rng.random_range(1_200_000..2_200_000);
        }
    }

    /// A batch that fails first is sent again until it is acknowledged.
    fn batch(&mut self, client: &str, id: Uuid, items: &[Item], at: u64, fails: bool) {
        let count = items.len() as u64;
        self.rows.extend(items.iter().map(|item| StoredReading { device: id, ts_unix_us: item.ts_unix_us, n: item.n }));
        let call = |retry_of| Call::Readings { items: items.to_vec(), retry_of };
        if !fails {
            self.add(client, Some(id), call(None), at, stored(count, 0));
            return;
        }
        let failure = self.failure();
        let was_done = !matches!(failure, Outcome::NotSent { .. }) && self.rng.random_bool(0.5);
        let first = self.add(client, Some(id), call(None), at, failure);
        let again = if was_done { stored(0, count) } else { stored(count, 0) };
        self.add(client, Some(id), call(Some(first)), at + 5 * SECOND, again);
    }

    fn promise(&mut self) -> Outcome {
        let next_in_ms = Some(self.rng.random_range(INTERVAL_MS * 9 / 10..=INTERVAL_MS * 11 / 10));
        Outcome::Acknowledged { status: 200, stored: 0, duplicates: 0, rejected: 0, degraded: false, next_in_ms }
    }

    fn failure(&mut self) -> Outcome {
        match self.rng.random_range(0..3) {
            0 => Outcome::Unknown { error: "the connection was closed before the answer".to_owned() },
            1 => Outcome::Refused { status: 503, problem: Some("unavailable".to_owned()), detail: None },
            _ => Outcome::NotSent { error: "connection refused".to_owned() },
        }
    }

    /// A change every second, and reads between: a replica hears of it within half a second, the changed one at once.
    fn operator(&mut self, outage: u64) {
        let mut version = 0;
        for second in 1..95 {
            let at = START + second * SECOND;
            if (FAULT..FAULT + outage).contains(&at) {
                continue;
            }
            version += 1;
            let resource = RESOURCE.to_owned();
            let change = Call::Change { resource: resource.clone(), version: Some(version) };
            self.add("operator", None, change, at, acknowledged());
            for _ in 0..2 {
                let read = Call::Read { resource: resource.clone(), version: Some(version) };
                let at = at + self.rng.random_range(600_000..900_000);
                self.add("reader", None, read, at, acknowledged());
            }
        }
    }

    /// Suspended at 50 s, resumed at 60 s; a success within the bound, and refusals after it.
    fn suspension(&mut self, id: Uuid) {
        let at = START + 50 * SECOND;
        self.add("suspended", Some(id), Call::Me, at - SECOND, acknowledged());
        self.add("operator", None, Call::Revoke { device: id }, at, acknowledged());
        self.add("suspended", Some(id), Call::Me, at + 300_000, acknowledged());
        for step in 0..8 {
            let refused = Outcome::Refused { status: 403, problem: Some("device-suspended".to_owned()), detail: None };
            self.add("suspended", Some(id), Call::Me, at + SECOND + 200_000 + step * SECOND, refused);
        }
        self.add("operator", None, Call::Restore { device: id }, at + 10 * SECOND, acknowledged());
        self.add("suspended", Some(id), Call::Me, at + 12 * SECOND, acknowledged());
    }
}

pub fn absence(replica: Uuid, from_us: u64, until_us: u64, paused: bool) -> Absence {
    Absence { replica, from_us, until_us, paused }
}

fn belief(of: u128, duty: &str, epoch: i64, began_us: u64, ended_us: Option<u64>) -> BeliefSpan {
    let trust_until_us = began_us + 6_600_000;
    BeliefSpan { replica: replica(of), duty: duty.to_owned(), timeline: 1, epoch, began_us, ended_us, trust_until_us }
}

/// Replica 1 is killed while it sweeps: its log has no end. The partitions are the other's all the time.
fn beliefs(takeover: u64) -> Vec<BeliefSpan> {
    vec![
        belief(1, "sweeper", 7, START - SECOND, None),
        belief(2, "sweeper", 8, takeover, Some(END)),
        belief(3, "partitions", 4, START - SECOND, None),
    ]
}

fn effects(rng: &mut StdRng) -> Vec<Effect> {
    let (mut seq, mut effects) = (100, Vec::new());
    for epoch in [7, 8] {
        for _ in 0..rng.random_range(1..6) {
            seq += rng.random_range(1..4);
            effects.push(Effect { role: "sweeper".to_owned(), timeline: 1, epoch, seq });
        }
    }
    effects
}

pub fn event(device: Uuid, at_us: u64, kind: &str, cause: &str) -> PresenceEvent {
    PresenceEvent { device, at_unix_us: unix(at_us), kind: kind.to_owned(), cause: Some(cause.to_owned()) }
}

fn presence(devices: u128) -> Vec<PresenceEvent> {
    vec![
        event(device(0), START + SECOND, "device.online", "contact"),
        event(silent(devices), SILENCED_AT + 18 * SECOND, "device.offline", "silence"),
    ]
}

fn leak(place: &str, what: &str, before: f64, after: f64) -> LeakSample {
    LeakSample { place: place.to_owned(), what: what.to_owned(), before, after, tolerance: 8.0 }
}

fn marks(takeover: u64) -> Vec<Mark> {
    let mark = |at_us, what, text: &str| Mark { at_us, what, text: text.to_owned() };
    vec![
        mark(START, MarkKind::Leader, "replica 1"),
        mark(START, MarkKind::Primary, "pg1"),
        mark(FAULT, MarkKind::FaultBegan, "kill replica 1 (leader)"),
        mark(takeover, MarkKind::Leader, "replica 2"),
        mark(FAULT + 15 * SECOND, MarkKind::FaultEnded, "start replica 1"),
        mark(FAULT + 20 * SECOND, MarkKind::Healthy, ""),
    ]
}
