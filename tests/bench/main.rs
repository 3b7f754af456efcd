//! Is the load generator honest? The program itself, against a server of which it is known how it answers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod target;

use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use target::{Manner, Target};

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A latency of the whole run.
fn latency_us(result: &Value, name: &str) -> u64 {
    let all = result["all"]["latency_us"].as_array().unwrap();
    all.iter().find(|pair| pair[0] == name).unwrap_or_else(|| panic!("{name}: {result}"))[1].as_u64().unwrap()
}

/// Of the p99 of two runs.
fn quotient(result: &Value, other: &Value) -> f64 {
    let [of, by] = [result, other].map(|result| u32::try_from(latency_us(result, "p99")).unwrap());
    f64::from(of) / f64::from(by)
}

/// What a page would fetch or run.
fn external(page: &str) -> Vec<&'static str> {
    let page = page.to_lowercase();
    let signs = [
        "http:", "https:", "src=", "srcset=", "href=", "url(", "@import", "<script", "<link", "<iframe", "<object",
        "//",
    ];
    signs.into_iter().filter(|sign| page.contains(sign)).collect()
}

#[test]
fn what_a_page_fetches_is_seen() {
    assert_eq!(external("<p>all of it</p>"), [""; 0]);
    for fetching in [
        "<img SRC='a.png'>",
        "<link rel=stylesheet>",
        "p { background: url(a.png) }",
        "@import 'a.css'",
        "see https://a",
        "//cdn.example/a.js",
    ] {
        assert!(!external(fetching).is_empty(), "{fetching}");
    }
}

/// A hundred requests a second, on two devices. A second long nobody is answered: two requests see it, and a hundred
/// were due meanwhile. Whoever counts from the sending reports two slow ones of six hundred, and an even p99.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_without_answers_is_charged_for_all_who_were_due() {
    let manner = Manner::Stalls(Duration::from_secs(2), Duration::from_secs(3));
    let target = Target::start("stall", 2, manner).await;
    let load = ["--work", "heartbeat", "--rate", "100", "--devices", "2", "--seconds", "6", "--warm-up", "1"];
    let begun = Instant::now();
    let (ran, took) = (target.bench("stalled", &load).await, begun.elapsed());
    assert!(ran.status.success(), "{}", told(&ran));

    let (result, page) = target.result("stalled");
    let stalled = target.seen.stalled.load(Ordering::SeqCst);
    assert!((1..=2).contains(&stalled), "{stalled} requests came during the stall");
    assert_eq!((&result["all"]["due"], &result["all"]["good"]), (&500.into(), &500.into()), "the rate did not follow");
    let [p50, p90, p99, max] = ["p50", "p90", "p99", "max"].map(|name| latency_us(&result, name) / 1_000);
    // Of five hundred measured, a fifth waited for up to a second, all of them equally likely for any part of it.
    assert!(p90 >= 300 && p99 >= 800 && max >= 900, "p90 {p90} ms, p99 {p99} ms, max {max} ms");
    // A busy machine makes all of it slower; nobody waits for longer than the run took.
    assert!(p50 < max && u128::from(max) <= took.as_millis(), "p50 {p50} ms, max {max} ms, all of it {took:?}");

    assert_eq!(external(&page), [""; 0]);
    assert_eq!(page.matches("<svg").count(), 1);
    for part in ["requests that were due in a second", "latency of good answers", "class=\"p50\"", "class=\"p99\""] {
        assert!(page.contains(part), "{part}: {page}");
    }

    // Beside a run against the same server, which does not stall any more.
    let steady = target.bench("steady", &load).await;
    assert!(steady.status.success(), "{}", told(&steady));
    let compared = compare(&target, "stalled", "steady");
    assert!(compared.status.success(), "{}", told(&compared));
    let text = told(&compared);
    let p99 = text.lines().find(|line| line.trim_start().starts_with("p99 ")).unwrap_or_else(|| panic!("{text}"));
    let ratio: f64 = p99.split_whitespace().last().unwrap().parse().unwrap();
    let expected = quotient(&target.result("steady").0, &result);
    assert!((ratio - expected).abs() <= 0.01 && !text.contains("did not do the same"), "{expected}: {text}");

    std::fs::write(target.dir.join("torn.json"), "{\"date\":").unwrap();
    let refused = compare(&target, "stalled", "torn");
    assert!(!refused.status.success() && told(&refused).contains("is not the result of a run"), "{}", told(&refused));
}

/// How many were sent of each: heartbeats, single readings, batches.
fn sent(target: &Target, batch: usize) -> [usize; 3] {
    let calls = target.seen.calls.lock().unwrap();
    let of = |path: &str, readings| calls.get(&(path.to_owned(), readings)).copied().unwrap_or_default();
    [of("/v1/heartbeat", 0), of("/v1/readings", 1), of("/v1/readings", batch)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_comes_in_the_proportion_of_its_weights_and_cpu_time_is_counted() {
    let target = Target::start("mix", 4, Manner::AtOnce).await;
    let (work, server) = ("mix:heartbeat=55,reading=35,batch:10=10", format!("server={}", std::process::id()));
    let load = ["--rate", "200", "--devices", "4", "--seconds", "3", "--warm-up", "1", "--cpu", &server];
    let ran = target.bench("mixed", &[&["--work", work], &load[..]].concat()).await;
    assert!(ran.status.success(), "{}", told(&ran));
    let sent = sent(&target, 10);
    assert_eq!(sent.iter().sum::<usize>(), 600, "{sent:?}");
    // Six standard deviations of a draw are 73, 70 and 44.
    for (count, expected) in sent.into_iter().zip([330_usize, 210, 60]) {
        assert!(count.abs_diff(expected) <= 80 && count > 0, "{sent:?}");
    }

    let (result, page) = target.result("mixed");
    assert!(page.contains(work) && told(&ran).contains(work), "{}", told(&ran));
    let per_second = |name: &str| result[name].as_f64().unwrap();
    assert!((per_second("readings_per_second") / per_second("good_per_second") - 1.35).abs() < 1e-6, "{result}");
    let cpu = result["cpu"].as_array().unwrap();
    assert_eq!(cpu.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), ["server", "generator"]);
    // All answers were good ones.
    assert!(cpu.iter().all(|one| one["seconds_per_million"] == one["seconds_per_million_answered"]), "{cpu:?}");
}

/// Sixteen at a time, each for a twentieth of a second: more than sixteen devices find no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_doubles_the_devices_and_reports_the_best_step() {
    let target = Target::start("search", 40, Manner::Works(16, Duration::from_millis(50))).await;
    let load = ["--work", "heartbeat", "--search", "--devices", "40", "--seconds", "3", "--warm-up", "1"];
    let ran = target.bench("found", &load).await;
    assert!(ran.status.success(), "{}", told(&ran));
    let (result, page) = target.result("found");
    let steps = result["search"].as_array().unwrap();
    let of = |step: &Value| (step["devices"].as_u64().unwrap(), step["good_per_second"].as_f64().unwrap());
    let steps: Vec<(u64, f64)> = steps.iter().map(of).collect();
    // What a step finds depends on the machine; what follows from it does not.
    let (devices, goodput): (Vec<u64>, Vec<f64>) = steps.iter().copied().unzip();
    assert!(devices.len() >= 2 && [16, 32, 40].starts_with(&devices), "{steps:?}");
    // 320/s, and what was sent in the measured time and answered after it.
    assert!(goodput.iter().all(|found| (1.0..=400.0).contains(found)), "{steps:?}");
    assert!(devices.len() == 2 || goodput[1] >= 1.05 * goodput[0], "{steps:?}");
    let best = *steps.iter().find(|step| Some(step.0) == result["devices"].as_u64()).unwrap();
    assert_eq!(result["good_per_second"].as_f64(), Some(best.1));
    assert!(goodput.iter().all(|found| *found <= best.1), "{steps:?}");
    let line = format!("{:.0}/s", best.1);
    for text in [&told(&ran), &page] {
        assert!(text.lines().any(|found| found.contains(&line) && found.ends_with("the best")), "{line}: {text}");
    }
    let compared = compare(&target, "found", "found");
    assert!(compared.status.success() && told(&compared).contains("devices"), "{}", told(&compared));
    assert!(!told(&compared).contains("did not do the same"), "{}", told(&compared));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stopped_is_measured_for_as_long_as_it_went() {
    let target = Target::start("stopped", 2, Manner::AtOnce).await;
    let load = ["--work", "heartbeat", "--rate", "50", "--devices", "2", "--seconds", "600", "--warm-up", "1"];
    let running = target.command("stopped", &load).stdout(Stdio::null()).spawn().unwrap();
    // Between two seconds.
    while target.seen.calls.lock().unwrap().values().sum::<usize>() < 165 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = Pid::from_raw(running.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert!(running.wait_with_output().await.unwrap().status.success());
    let (result, _) = target.result("stopped");
    let (measured, goodput) =
        (result["seconds_measured"].as_u64().unwrap(), result["good_per_second"].as_f64().unwrap());
    assert!((1..60).contains(&measured) && (45.0..=50.0).contains(&goodput), "{goodput}/s of {measured} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let target = Target::start("refused", 1, Manner::AtOnce).await;
    let table: [(&[&str], &str); 7] = [
        (&[], "give --rate, --closed or --search"),
        (&["--search", "--rate", "10"], "cannot be used with"),
        (&["--search", "--closed"], "cannot be used with"),
        (&["--closed", "--rate", "10"], "cannot be used with"),
        (&["--closed", "--work", "mix:storm=1"], "\"storm\" is none of heartbeat, reading, batch:N"),
        (&["--closed", "--work", "mix:heartbeat"], "\"heartbeat\" has no weight"),
        (&["--closed", "--cpu", "server=4294967295"], "there is no such process"),
    ];
    for (args, said) in table {
        let ran = target.bench("nothing", args).await;
        assert!(!ran.status.success() && told(&ran).contains(said), "{args:?}: {}", told(&ran));
    }
    assert!(target.seen.calls.lock().unwrap().is_empty());
}

fn compare(target: &Target, first: &str, second: &str) -> Output {
    let [first, second] = [first, second].map(|name| target.dir.join(name).with_extension("json"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_everbeat"));
    command.args(["bench", "--compare"]).args([first, second]).output().unwrap()
}
