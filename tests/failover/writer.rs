//! Devices that send readings and never give up one of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everbeat::domain::time::rfc3339;
use everbeat::lifecycle::tasks::spawn;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::app::{Caller, HTTP_1, TestApp, now};
use crate::wire::Wire;

/// Between two tries of one reading.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Record {
    /// Acknowledged readings by their number, and what the acknowledgement said of durability.
    pub acknowledged: BTreeMap<u64, Option<String>>,
    /// Numbers that were begun.
    pub begun: u64,
    /// The status of each answer, and the problem's kind.
    pub answers: BTreeMap<(u16, String), u64>,
}

impl Record {
    fn hear(&mut self, n: u64, status: u16, kind: &str, answer: &Value) {
        *self.answers.entry((status, kind.to_owned())).or_default() += 1;
        if status == 200 {
            self.acknowledged.insert(n, answer["durability"].as_str().map(str::to_owned));
        }
    }
}

pub struct Writer {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    task: AbortOnDropHandle<Caller>,
}

/// A reading that says its number.
pub fn numbered(n: u64) -> Value {
    json!({"id": Uuid::now_v7(), "ts": rfc3339(now()), "values": {"n": n}})
}

impl Writer {
    /// One reading at a time, sent again until it is acknowledged, on a new connection where the service closed the old one.
    pub fn start(app: &TestApp, mut caller: Caller) -> Self {
        let (addr, tls) = (app.replica.running.device_addr, app.tls(Some(&caller.identity), HTTP_1));
        let record = Arc::new(Mutex::new(Record::default()));
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (notes, stopped, count) = (record.clone(), stop.clone(), acknowledged.clone());
        let task = spawn(async move {
            let mut n = 0;
            while !stopped.load(Ordering::SeqCst) {
                let body = numbered(n);
                notes.lock().unwrap().begun = n + 1;
                loop {
                    let ask = caller.post("/v1/readings").json(&body);
                    let Some(answer) = caller.wire.try_call(&ask).await else {
                        caller.wire = Wire::tls(addr, tls.clone()).await;
                        continue;
                    };
                    let json = answer.json();
                    let kind = json["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default();
                    notes.lock().unwrap().hear(n, answer.status, kind, &json);
                    if answer.status == 200 {
                        count.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    tokio::time::sleep(PAUSE).await;
                }
                n += 1;
            }
            caller
        });
        Self { record, stop, acknowledged, task: AbortOnDropHandle::new(task) }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends once the reading that is under way is acknowledged.
    pub async fn finish(self) -> (Caller, Record) {
        self.stop.store(true, Ordering::SeqCst);
        let caller = self.task.await.unwrap();
        let record = std::mem::take(&mut *self.record.lock().unwrap());
        (caller, record)
    }
}
