//! Leases on a real PostgreSQL: the rules of a campaign one by one, and replicas that lose what they need.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use everbeat::domain::ids::ReplicaId;
use everbeat::domain::lease::{Duty, Fence, Seen};
use everbeat::domain::random::Random;
use everbeat::domain::time::Clock;
use everbeat::jobs::{self, Beliefs, JobsSettings, Parts};
use everbeat::lifecycle::shutdown::Shutdown;
use everbeat::lifecycle::tasks::{self, Tasks};
use everbeat::store::leases::{self, Campaign, Candidate};
use everbeat::store::partitions::{self, Trim, Trimmed};
use everbeat::store::presence::RestartCap;
use everbeat::store::retention::RetentionClock;
use everbeat::store::sweep::SweepSettings;
use everbeat::store::{Plane, Session, StoreSettings, primary};
use futures_util::future::join_all;
use support::{TestCluster, TestStore};
use tokio::time::Instant;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_mins(1);
const ROLE: &str = "tested";

fn retention_clock() -> RetentionClock {
    RetentionClock::judge(Clock::System.wall(), Clock::System.wall()).unwrap()
}

fn changes(rows_max: i64) -> Trim {
    Trim { table: Trimmed::Changes, age: LONG, rows_max }
}

/// A candidate as one session sees it: the prototype's scenarios in terms of the typed statements.
struct Runner {
    session: Session,
    holder: ReplicaId,
    ttl: Duration,
    has_lock: bool,
    fence: Option<Fence>,
}

impl Runner {
    async fn new(settings: &StoreSettings, ttl: Duration) -> Self {
        let session = Session::open(settings, &settings.hosts[0], Plane::Lease, "").await.unwrap();
        Self { session, holder: ReplicaId(Uuid::new_v4()), ttl, has_lock: false, fence: None }
    }

    fn candidate(&self) -> Candidate<'static> {
        Candidate { role: ROLE, holder: self.holder, addr: "here", ttl: self.ttl }
    }

    async fn try_lock(&mut self) -> bool {
        self.has_lock = self.has_lock || leases::try_lock(&self.session, ROLE, LIMIT).await.unwrap();
        self.has_lock
    }

    async fn campaign(&mut self) -> bool {
        self.campaign_with(None).await.0
    }

    /// Did it win, and what was the row before?
    async fn campaign_with(&mut self, stale: Option<Seen>) -> (bool, Option<Seen>) {
        self.try_lock().await;
        let ended = leases::campaign(&self.session, &self.candidate(), self.has_lock, stale, LIMIT).await.unwrap();
        match ended {
            Campaign::Won { fence, found } => {
                self.fence = Some(fence);
                (true, found.map(|found| found.seen))
            }
            Campaign::Lost { found } => {
                leases::unlock(&self.session, LIMIT).await.unwrap();
                self.has_lock = false;
                (false, found.map(|found| found.seen))
            }
        }
    }

    fn epoch(&self) -> i64 {
        self.fence.unwrap().epoch
    }

    async fn renew(&mut self) -> bool {
        self.try_lock().await;
        leases::renew(&self.session, &self.candidate(), &self.fence.unwrap(), self.has_lock, LIMIT).await.unwrap()
    }

    async fn resign(&mut self) -> bool {
        let resigned = leases::resign(&self.session, self.holder, &self.fence.unwrap(), LIMIT).await.unwrap();
        leases::unlock(&self.session, LIMIT).await.unwrap();
        self.has_lock = false;
        resigned
    }

    /// An effect under the fence. Did it count?
    async fn effect(&self) -> bool {
        let fence = self.fence.unwrap();
        partitions::trim(&self.session, &fence, retention_clock(), changes(1), LIMIT).await.unwrap().is_some()
    }
}

/// One process with its candidates, of which a test looks at one.
struct Replica {
    id: ReplicaId,
    tasks: Tasks,
    beliefs: Beliefs,
}

impl Replica {
    async fn start(store: &StoreSettings, settings: JobsSettings) -> Self {
        let (store, id) = (Arc::new(store.clone()), ReplicaId(Uuid::new_v4()));
        let tasks = Tasks::new(Shutdown::new());
        let mut primary = primary::track(store.clone(), &tasks).primary;
        primary::wait_for_primary(&mut primary, Duration::from_secs(10)).await.unwrap();
        let (clock, random) = (Clock::System, Random::from_os());
        let parts = Parts { store, primary, replica: id, addr: "here".to_owned(), clock, random };
        let beliefs = jobs::start(settings, &parts, &tasks);
        Self { id, tasks, beliefs }
    }

    fn fence(&self) -> Option<Fence> {
        self.beliefs.fence(Duty::Sweeper)
    }

    async fn wins_within(&self, limit: Duration) -> Fence {
        let fence = within(limit, async || self.fence()).await;
        fence.unwrap_or_else(|| panic!("not the leader after {limit:?}"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.shutdown().abort();
    }
}

/// Asks until there is an answer.
async fn within<T>(limit: Duration, ask: impl AsyncFn() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        if begun.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The design's values, faster.
fn fast() -> JobsSettings {
    JobsSettings {
        ttl_ms: 1_500,
        renew_ms: 250,
        poll_ms: 100,
        lock_timeout_ms: 200,
        statement_timeout_ms: 500,
        effect_timeout_ms: 500,
        sweep_interval_ms: 50,
        ..slow()
    }
}

fn slow() -> JobsSettings {
    JobsSettings::standard(SweepSettings {
        rows_max: 500,
        tick_fresh: Duration::from_secs(3),
        blind_max: Duration::from_secs(10),
        cap: RestartCap { restarts_max: 3, window: LONG },
    })
}

struct Db {
    cluster: &'static TestCluster,
    settings: StoreSettings,
}

impl Db {
    async fn new() -> Self {
        let cluster = TestCluster::shared();
        Self { cluster, settings: cluster.database().await }
    }

    async fn runner(&self, ttl: Duration) -> Runner {
        Runner::new(&self.settings, ttl).await
    }

    async fn run(&self, sql: &str) {
        self.cluster.owner_batch(&self.settings.database, sql).await;
    }

    async fn number(&self, sql: &str) -> i64 {
        let (client, _connection) = self.cluster.owner(&self.settings.database).await;
        client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn expire(&self) {
        self.run("update leader_lease set expires_at = clock_timestamp()").await;
    }

    async fn end_backend(&self, pid: i32) {
        self.run(&format!("select pg_terminate_backend({pid}, 5000)")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_racing_candidates_one_wins() {
    let db = Db::new().await;
    let mut last = 0;
    for round in 0..24 {
        let mut racers = join_all((0..8).map(|_| db.runner(LONG))).await;
        let wins = join_all(racers.iter_mut().map(Runner::campaign)).await;
        assert_eq!(wins.iter().filter(|won| **won).count(), 1, "round {round}: {wins:?}");
        let mut winner = racers.into_iter().zip(wins).find(|(_, won)| *won).unwrap().0;
        assert_eq!(winner.epoch(), last + 1, "round {round}");
        last = winner.epoch();
        // The next race is for an expired lease, a resigned one, or one whose session has ended.
        match round % 3 {
            0 => db.expire().await,
            1 => assert!(winner.resign().await),
            _ => {
                assert!(winner.renew().await && winner.has_lock, "a renewal takes the lock, if the campaign had not");
                db.end_backend(winner.session.backend_pid()).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holders_session_that_ends_frees_its_lease_at_once_and_a_living_one_only_at_expiry() {
    let db = Db::new().await;
    let (mut a, mut b) = (db.runner(LONG).await, db.runner(LONG).await);
    assert!(a.campaign().await);
    assert!(!b.campaign().await);
    db.end_backend(a.session.backend_pid()).await;
    assert!(b.campaign().await, "the session is gone: its lock proves it");
    assert_eq!(b.epoch(), 2);

    let mut c = db.runner(LONG).await;
    assert!(!c.campaign().await);
    db.expire().await;
    assert!(c.campaign().await, "expired, though the holder's session lives");
    assert_eq!(c.epoch(), 3);
    assert!(!b.renew().await && !b.effect().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_holders_lock_gives_the_lease_to_nobody() {
    let db = Db::new().await;
    let (mut a, mut w, mut d) = (db.runner(LONG).await, db.runner(LONG).await, db.runner(LONG).await);
    assert!(a.campaign().await);
    db.expire().await;
    assert!(w.campaign().await && !w.has_lock, "a, paused, keeps the lock");
    assert!(w.renew().await && !w.has_lock);

    assert!(!a.effect().await, "a wakes up: its effect is void");
    assert!(!a.renew().await, "and its renewal");
    assert!(a.has_lock && !a.campaign().await, "and its lock wins it nothing");
    assert!(d.try_lock().await && !d.campaign().await, "nor whoever takes that lock");
    assert!(w.renew().await && w.has_lock, "the winner tries for the lock at each renewal");
    assert!(w.effect().await);
    assert_eq!(db.number("select lock_pid::bigint from leader_lease").await, i64::from(w.session.backend_pid()));
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_grow_through_everything_and_an_old_one_changes_nothing() {
    let db = Db::new().await;
    let (mut a, mut b) = (db.runner(LONG).await, db.runner(LONG).await);
    assert!(a.campaign().await);
    let first = a.fence.unwrap();
    assert!(a.campaign().await, "over itself: a lost answer, a new timeline");
    assert!(a.resign().await && !a.resign().await, "given back once");
    assert!(b.campaign().await);
    db.end_backend(b.session.backend_pid()).await;
    assert!(a.campaign().await);
    db.run("delete from leader_lease").await;
    let mut c = db.runner(LONG).await;
    assert!(c.campaign().await, "the row is lost; the fence's epoch is not");
    assert_eq!((first.epoch, a.epoch(), c.epoch()), (1, 4, 5));

    db.run("insert into changes (kind, key, at) select 'device', n::text, now() - interval '2 days' from generate_series(1, 5) n")
        .await;
    for old in [first, a.fence.unwrap(), Fence { timeline: 99, ..c.fence.unwrap() }] {
        let trimmed = partitions::trim(&a.session, &old, retention_clock(), changes(500), LIMIT).await.unwrap();
        assert_eq!(trimmed, None);
        assert_eq!(partitions::ensure(&a.session, &old, 2, LIMIT).await.unwrap(), None);
        assert!(!leases::fence_holds(&a.session, &old, LIMIT).await.unwrap());
        assert!(!leases::become_effect(&a.session, a.holder, &old, LIMIT).await.unwrap());
    }
    assert_eq!(db.number("select count(*) from changes").await, 5);
    assert_eq!(db.number("select count(*) from leader_effects").await, 0);
    let now = partitions::trim(&c.session, &c.fence.unwrap(), retention_clock(), changes(500), LIMIT).await.unwrap();
    assert_eq!(now, Some(5));
    assert_eq!(db.number("select epoch from leader_effects").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_an_hour_ahead_is_overruled_by_ones_own() {
    let db = Db::new().await;
    let mut gone = db.runner(LONG).await;
    assert!(gone.campaign().await);
    db.run("update leader_lease set expires_at = clock_timestamp() + interval '1 hour', lock_pid = null").await;
    let mut n = db.runner(LONG).await;
    let (won, seen) = n.campaign_with(None).await;
    assert!(!won, "nobody wins by expiry");
    assert!(gone.renew().await);
    assert!(!n.campaign_with(seen).await.0, "a renewal in between saves it");
    let (_, seen) = n.campaign_with(None).await;
    assert!(n.campaign_with(seen).await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_waits_a_ttl_of_its_own_before_it_calls_a_lease_stale() {
    let db = Db::new().await;
    let far = "insert into leader_lease (role, holder, epoch, timeline, postmaster_start, acquired_at, renewed_at, \
               expires_at, addr) values ('sweeper', gen_random_uuid(), 7, 1, now(), now(), now(), \
               now() + interval '1 hour', 'gone')";
    db.run(far).await;
    let begun = Instant::now();
    let replica = Replica::start(&db.settings, fast()).await;
    assert_eq!(replica.wins_within(LIMIT).await.epoch, 8);
    assert!(begun.elapsed() >= Duration::from_millis(fast().ttl_ms), "won after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_timeline_voids_a_renewal() {
    let db = Db::new().await;
    let mut a = db.runner(LONG).await;
    assert!(a.campaign().await && a.renew().await);
    db.run("update leader_lease set timeline = timeline + 1").await;
    assert!(!a.renew().await);
    assert!(a.campaign().await, "the lease is still a's: it goes on at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_who_holds_what_and_what_has_expired() {
    let db = Db::new().await;
    let mut a = db.runner(LONG).await;
    assert!(a.campaign().await);
    let store = TestStore::on(db.settings.clone()).await;
    let [lease] = leases::list(&store.control).await.unwrap().try_into().unwrap();
    assert_eq!((lease.holder, lease.epoch, lease.expired), (Some(a.holder.0), 1, false));
    db.expire().await;
    assert!(leases::list(&store.control).await.unwrap()[0].expired);
    assert!(a.resign().await);
    assert_eq!(leases::list(&store.control).await.unwrap()[0].holder, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_campaign_writes_nothing() {
    let db = Db::new().await;
    let (mut a, mut b) = (db.runner(LONG).await, db.runner(LONG).await);
    assert!(a.campaign().await);
    let row = "select xmax::text::bigint from leader_lease";
    assert_eq!(db.number(row).await, 0);
    for _ in 0..3 {
        assert!(!b.campaign().await);
    }
    assert_eq!(db.number(row).await, 0, "not even a row lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_goes_on_and_on_does_not_hold_up_its_successor() {
    let db = Db::new().await;
    let mut a = Runner::new(&db.settings, LONG).await;
    let won = leases::campaign(&a.session, &Candidate { role: "sweeper", ..a.candidate() }, false, None, LIMIT).await;
    let Campaign::Won { fence, .. } = won.unwrap() else { panic!() };
    a.fence = Some(fence);
    let effect = Session::open(&db.settings, &db.settings.hosts[0], Plane::Lease, "").await.unwrap();
    assert!(leases::become_effect(&effect, a.holder, &fence, LIMIT).await.unwrap());
    let endless = tasks::spawn(async move {
        let sql = "with f as (select 1 from leader_epoch where role = 'sweeper' for share) select pg_sleep(60) from f";
        effect.batch("endless", sql, LONG).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;

    let rival = db.runner(LONG).await;
    let candidate = Candidate { role: "sweeper", ..rival.candidate() };
    assert!(!leases::unblock(&rival.session, &candidate, false, None, LIMIT).await.unwrap(), "the lease is alive");
    db.expire().await;
    let begun = Instant::now();
    let replica = Replica::start(&db.settings, fast()).await;
    assert_eq!(replica.wins_within(Duration::from_secs(3)).await.epoch, 2);
    assert!(endless.await.unwrap().is_err(), "its backend was ended");
    assert!(begun.elapsed() < Duration::from_secs(3), "took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duty_has_one_effect_backend() {
    let db = Db::new().await;
    let mut a = db.runner(LONG).await;
    assert!(a.campaign().await);
    let fence = a.fence.unwrap();
    let open = async || Session::open(&db.settings, &db.settings.hosts[0], Plane::Lease, "").await.unwrap();
    let (first, second) = (open().await, open().await);
    assert!(leases::become_effect(&first, a.holder, &fence, LIMIT).await.unwrap());
    assert!(leases::become_effect(&second, a.holder, &fence, LIMIT).await.unwrap());
    tokio::time::timeout(LIMIT, first.closed()).await.expect("the one before is ended");
    assert_eq!(db.number("select effect_pid::bigint from leader_lease").await, i64::from(second.backend_pid()));
    assert!(!second.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_over_soon_after_a_crash_and_at_once_after_a_drain() {
    let db = Db::new().await;
    let a = Replica::start(&db.settings, slow()).await;
    let first = a.wins_within(LIMIT).await;
    let b = Replica::start(&db.settings, slow()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(b.fence(), None);
    let crashed = Instant::now();
    a.tasks.shutdown().abort();
    let second = b.wins_within(Duration::from_secs(3)).await;
    let took = crashed.elapsed();
    assert!(took < Duration::from_secs(2), "took {took:?}; a TTL is 10 s");
    assert!(second.token() > first.token());

    // A follower that hardly ever looks: only the doorbell can wake it.
    let sleepy = Replica::start(&db.settings, JobsSettings { poll_ms: 9_000, ..slow() }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let drained = Instant::now();
    b.tasks.shutdown().drain();
    let third = sleepy.wins_within(Duration::from_secs(3)).await;
    assert!(drained.elapsed() < SHORT, "took {:?}", drained.elapsed());
    assert!(third.token() > second.token());
    assert_eq!(b.tasks.finish(LIMIT).await, None, "the drain ends the duties");
    assert_eq!(b.fence(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_row_is_taken_steps_down() {
    let db = Db::new().await;
    let replica = Replica::start(&db.settings, fast()).await;
    let fence = replica.wins_within(LIMIT).await;
    db.run(
        "begin; update leader_lease set holder = gen_random_uuid(), epoch = epoch + 1, lock_pid = null, \
         renewed_at = clock_timestamp(), expires_at = clock_timestamp() + interval '1 hour' where role = 'sweeper'; \
         update leader_epoch set epoch = epoch + 1 where role = 'sweeper'; commit",
    )
    .await;
    let stepped_down = within(SHORT, async || replica.fence().is_none().then_some(())).await;
    assert!(stepped_down.is_some(), "still believes in {fence:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(replica.fence(), None, "and the lock it had does not bring it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_loses_its_session_goes_on_with_a_higher_epoch() {
    let db = Db::new().await;
    let replica = Replica::start(&db.settings, fast()).await;
    let fence = replica.wins_within(LIMIT).await;
    let pid = db.number("select lock_pid::bigint from leader_lease where role = 'sweeper'").await;
    db.end_backend(i32::try_from(pid).unwrap()).await;
    let again = within(LIMIT, async || replica.fence().filter(|now| *now != fence)).await.unwrap();
    assert!(again.token() > fence.token());
    let holder = format!("select count(*) from leader_lease where role = 'sweeper' and holder = '{}'", replica.id);
    assert_eq!(db.number(&holder).await, 1);
}

/// The holder's backend, stopped: a renewal that is neither answered nor refused, on a socket that stays open.
#[tokio::test(flavor = "multi_thread")]
async fn belief_ends_before_a_hanging_session_is_given_up() {
    let db = Db::new().await;
    let replica = Replica::start(&db.settings, fast()).await;
    let fence = replica.wins_within(LIMIT).await;
    let pid = db.number("select lock_pid::bigint from leader_lease where role = 'sweeper'").await;
    let backend = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(backend, rustix::process::Signal::STOP).unwrap();
    let stopped = Instant::now();
    let ended = within(LIMIT, async || (replica.fence() != Some(fence)).then(|| stopped.elapsed())).await.unwrap();
    let trust = fast().terms().trust();
    assert!(ended < trust + Duration::from_millis(300), "believed for {ended:?}");
    assert!(
        ended + Duration::from_millis(fast().renew_ms + 300) > trust,
        "a late answer was not waited for: {ended:?}"
    );
    let again = within(LIMIT, async || replica.fence().filter(|now| *now != fence)).await.unwrap();
    assert!(again.token() > fence.token(), "its own lease, over a new session, without the lock");
    rustix::process::kill_process(backend, rustix::process::Signal::CONT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_that_fail_extend_nothing_and_the_session_outlives_belief() {
    let db = Db::new().await;
    let replica = Replica::start(&db.settings, fast()).await;
    let fence = replica.wins_within(LIMIT).await;
    let pid = db.number("select lock_pid::bigint from leader_lease where role = 'sweeper'").await;
    let (blocker, _connection) = db.cluster.owner(&db.settings.database).await;
    blocker.batch_execute("begin; select from leader_lease where role = 'sweeper' for update").await.unwrap();
    let since = Instant::now();
    let alive = format!("select count(*) from pg_stat_activity where pid = {pid}");
    while replica.fence() == Some(fence) {
        let alive = db.number(&alive).await == 1;
        assert!(alive || replica.fence().is_none(), "the session was closed under belief");
        assert!(since.elapsed() < fast().terms().ttl, "believes past its lease");
    }
    blocker.batch_execute("rollback").await.unwrap();
    let again = within(LIMIT, async || replica.fence()).await.unwrap();
    assert!(again.token() > fence.token());
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_stay_in_the_order_of_their_tokens_whatever_is_killed() {
    let db = Db::new().await;
    let settings = || JobsSettings { partitions_interval_ms: 10, ..fast() };
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Replica::start(&db.settings, settings()).await);
    }
    let random = Random::seeded(11);
    for round in 0..60 {
        db.run("insert into changes (kind, key, at) select 'device', 'x', now() - interval '2 days' from generate_series(1, 3)")
            .await;
        let victim = match round % 4 {
            0 => "select pg_terminate_backend(lock_pid) from leader_lease where role = 'partitions'",
            1 => "select pg_terminate_backend(effect_pid) from leader_lease where role = 'partitions'",
            2 => "update leader_lease set expires_at = clock_timestamp() where role = 'partitions'",
            _ => "select 1",
        };
        db.run(victim).await;
        tokio::time::sleep(random.scale(Duration::from_millis(120), 0.0, 1.0)).await;
    }
    let disorder = "select count(*) from (select (timeline, epoch) < lag((timeline, epoch)) over (order by seq) as back \
                    from leader_effects where role = 'partitions') o where back";
    assert_eq!(db.number(disorder).await, 0);
    let epochs = db.number("select count(distinct epoch) from leader_effects where role = 'partitions'").await;
    assert!(epochs >= 5, "only {epochs} epochs had an effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_and_dropped_behind_also_after_an_interruption() {
    let db = Db::new().await;
    for day in ["2020-01-01", "2020-01-02", "2020-01-03"] {
        db.run(&format!("select ensure_readings_partition('{day}')")).await;
        db.run(&format!(
            "insert into readings (device_id, ts, digest, content, \"values\") values \
                         (gen_random_uuid(), '{day} 12:00Z', 1, 1, '{{}}')"
        ))
        .await;
    }
    db.run("alter table readings detach partition readings_20200102").await;
    interrupt_detach(&db, "readings_20200103").await;
    db.run(
        "insert into idempotency_keys values ('c', 'r', 'old', '', 200, 'x', now() - interval '2 days'), \
            ('c', 'r', 'new', '', 200, 'x', now())",
    )
    .await;

    let replica = Replica::start(&db.settings, fast()).await;
    let left = "select count(*) from pg_class where relkind = 'r' and relname like 'readings\\_2020%'";
    let gone = within(Duration::from_secs(10), async || (db.number(left).await == 0).then_some(())).await;
    assert!(gone.is_some(), "{} old days are left", db.number(left).await);
    let ahead = "select count(*) from pg_inherits where inhparent = 'readings'::regclass";
    assert_eq!(db.number(ahead).await, 5, "yesterday, today, and three ahead");
    let keys = "select count(*) from idempotency_keys";
    let trimmed = within(LIMIT, async || (db.number(keys).await == 1).then_some(())).await;
    assert!(trimmed.is_some(), "the old key goes, the new one stays");
    assert_eq!(db.number("select rows::bigint from leader_effects where kind = 'partitions.made'").await, 5);
    drop(replica);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_judges_silence_only_while_the_tick_is_fresh() {
    let db = Db::new().await;
    db.run(
        "insert into fleets (id, name) values ('00000000-0000-7000-8000-000000000001', 'f'); \
         insert into devices (id, fleet_id, name) \
         select gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 'd' || n from generate_series(1, 1200) n; \
         insert into presence (device_id, state, state_since, last_seen, promise_ms) \
         select id, 1, now() - interval '1 hour', now() - interval '1 hour', 1000 from devices",
    )
    .await;
    let replica = Replica::start(&db.settings, fast()).await;
    replica.wins_within(LIMIT).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(db.number("select count(*) from presence where state <> 1").await, 0, "no tick: nobody is judged");
    db.run(
        "update tick set at = clock_timestamp(), timeline = current_timeline(), \
         postmaster_start = pg_postmaster_start_time()",
    )
    .await;
    let left = "select count(*) from presence where state <> 3";
    let swept = within(LIMIT, async || (db.number(left).await == 0).then_some(())).await;
    assert!(swept.is_some(), "{} devices are still not offline", db.number(left).await);
    let effects = "select count(*) from leader_effects where role = 'sweeper' and rows <= 500";
    assert_eq!(db.number(effects).await, 3, "in bounded statements, each on record");
}

/// A concurrent detach that is cancelled while it waits for an old transaction leaves the partition pending.
async fn interrupt_detach(db: &Db, partition: &str) {
    let (reader, _connection) = db.cluster.owner(&db.settings.database).await;
    reader.batch_execute("begin isolation level repeatable read; select count(*) from readings").await.unwrap();
    let (detacher, _other) = db.cluster.owner(&db.settings.database).await;
    detacher.batch_execute("set statement_timeout = 300").await.unwrap();
    let detach = format!("alter table readings detach partition {partition} concurrently");
    assert!(detacher.batch_execute(&detach).await.is_err());
    assert_eq!(db.number("select count(*) from pg_inherits where inhdetachpending").await, 1);
    reader.batch_execute("rollback").await.unwrap();
}
