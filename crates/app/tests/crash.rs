//! `kill -9` under load: whatever instant the process dies at, everything that was accepted
//! arrives once, and nothing arrives that was never sent.
//!
//! `FLOWLINE_KILLS`, `FLOWLINE_MESSAGES` and `FLOWLINE_SEED` make it longer or repeat it;
//! `FLOWLINE_BIN` names another binary, such as a release build.

mod storm;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use storm::{client, deliveries::Item, eventually, ledger::Ledger, program::Installation, setting, target::Target};

/// How many clients send at the same time.
const SENDERS: usize = 8;
/// How many items the polled source has in the end.
const POLLED: u64 = 2_000;
/// The most members of a batch.
const BATCH: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_doubled_however_often_it_is_killed() {
    let seed = setting("FLOWLINE_SEED", rand::random::<u32>().into());
    let kills = setting("FLOWLINE_KILLS", 25);
    let messages = setting("FLOWLINE_MESSAGES", 20_000);
    println!("seed {seed}: {kills} kills, {messages} messages");

    let target = Target::start(POLLED);
    let installation = Arc::new(Installation::new("{}", &flows(&target)));
    let storm = Arc::new(Storm::new(kills, messages));
    (1..=POLLED).for_each(|id| storm.ledger().promise(Item::new("polled", id)));

    let senders = send_all(&storm, &installation, seed);
    let mut random = StdRng::seed_from_u64(seed);
    while !storm.is_over() {
        live_and_die(&installation, &mut random).await;
        storm.killed.fetch_add(1, Ordering::Relaxed);
    }
    // Senders that insist on an answer get it now.
    let _program = installation.up().await;
    senders.join_all().await;
    check(&storm, &installation, &target).await;
}

/// The state of the storm that all its parts see.
struct Storm {
    kills: u64,
    messages: u64,
    killed: AtomicU64,
    next: AtomicU64,
    calm: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Storm {
    fn new(kills: u64, messages: u64) -> Self {
        let (killed, next, calm) = (AtomicU64::new(0), AtomicU64::new(1), AtomicBool::new(false));
        Self { kills, messages, killed, next, calm, ledger: Mutex::default() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self) -> u64 {
        self.ledger().accepted() as u64
    }

    /// How many messages may be accepted by now: a share in each life of the process, so that
    /// the last kills come when nothing is sent and only waiting messages move.
    fn allowance(&self) -> u64 {
        let sending_lives = (self.kills * 4 / 5).max(1);
        let lives = self.killed.load(Ordering::Relaxed) + 1;
        (self.messages * lives).div_ceil(sending_lives).min(self.messages)
    }

    fn is_over(&self) -> bool {
        let over = self.accepted() >= self.messages && self.killed.load(Ordering::Relaxed) >= self.kills;
        self.calm.store(over, Ordering::Relaxed);
        over
    }
}

/// Runs the process for a moment and kills it: mostly at work, sometimes while it starts.
async fn live_and_die(installation: &Installation, random: &mut StdRng) {
    let mut program = installation.start();
    if random.random_ratio(1, 5) {
        sleep(Duration::from_millis(random.random_range(0..300))).await;
    } else {
        let client = client::new();
        eventually("flowline is ready between two kills", async || {
            assert!(program.runs(), "flowline ended by itself:\n{}", installation.log());
            installation.is_ready(&client).await
        })
        .await;
        sleep(Duration::from_millis(random.random_range(50..1_500))).await;
    }
    program.kill();
}

/// Starts the senders; they end when the storm is over.
fn send_all(storm: &Arc<Storm>, installation: &Arc<Installation>, seed: u64) -> JoinSet<()> {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let (storm, installation) = (Arc::clone(storm), Arc::clone(installation));
        let random = StdRng::seed_from_u64(seed ^ (sender as u64 + 1));
        senders.spawn(send_one_after_another(storm, installation, random));
    }
    senders
}

async fn send_one_after_another(storm: Arc<Storm>, installation: Arc<Installation>, mut random: StdRng) {
    let client = client::new();
    while !storm.calm.load(Ordering::Relaxed) {
        if storm.accepted() >= storm.allowance() {
            sleep(Duration::from_millis(20)).await;
            continue;
        }
        // Every request gets a name of its own: whether an unanswered one was accepted is then
        // seen at the target.
        let id = storm.next.fetch_add(1, Ordering::Relaxed);
        let letter = letter(id, &mut random);
        let url = installation.url(&format!("/hook/{}", letter.hook));
        let delivery = letter.insists.then(|| id.to_string());
        let fate = loop {
            let fate = client::send(&client, &url, delivery.as_deref(), &letter.body).await;
            let accepted = matches!(fate, client::Fate::Accepted(_));
            if !accepted {
                sleep(Duration::from_millis(50)).await;
            }
            if accepted || !letter.insists {
                break fate;
            }
        };
        storm.ledger().note(fate, letter.items);
    }
}

/// A message to send, and what it brings to the target.
struct Letter {
    hook: &'static str,
    /// Whether it is sent under one delivery name until it is answered, however often.
    insists: bool,
    body: Value,
    items: Vec<Item>,
}

fn letter(id: u64, random: &mut StdRng) -> Letter {
    match random.random_range(0..10) {
        0..4 => Letter {
            hook: "fan-out",
            insists: random.random(),
            body: json!({ "number": id, "first": "Ada", "last": "Lovelace" }),
            items: vec![Item::new("left", id), Item::new("right", id)],
        },
        4..6 => {
            let names: Vec<String> = (0..random.random_range(0..5)).map(|line| format!("{id}/{line}")).collect();
            let lines: Vec<Value> = names.iter().map(|name| json!({ "id": name })).collect();
            Letter {
                hook: "lines",
                insists: false,
                body: json!({ "order": id, "lines": lines }),
                items: names.iter().map(|name| Item::new("line", name)).collect(),
            }
        }
        6..8 => Letter {
            hook: "batches",
            insists: random.random(),
            body: json!({ "id": id }),
            items: vec![Item::new("batch", id)],
        },
        _ => Letter {
            hook: "slow",
            insists: false,
            body: json!({ "id": id, "pause": random.random_range(0..60), "refuse": random.random_ratio(1, 50) }),
            items: vec![Item::new("slow", id)],
        },
    }
}

/// Lets everything arrive, looks whether more comes than should, and compares.
async fn check(storm: &Storm, installation: &Installation, target: &Target) {
    let mut dead = Vec::new();
    eventually("everything accepted arrives or is dead", async || {
        dead = dead_items(installation).await;
        let dead: BTreeSet<Item> = dead.iter().cloned().collect();
        storm.ledger().missing(&target.deliveries(), &dead).is_empty()
    })
    .await;
    eventually("the queues are empty", async || waiting(installation).await == 0).await;

    let dead = dead_items(installation).await;
    let (ledger, arrived) = (storm.ledger(), target.deliveries());
    println!(
        "{} kills, {} requests accepted, {} items unanswered; {} items arrived ({} repeated with the same key), {} died",
        storm.killed.load(Ordering::Relaxed),
        ledger.accepted(),
        ledger.possible(),
        arrived.len(),
        arrived.repeats(),
        dead.len(),
    );
    let violations = ledger.violations(&arrived, &dead);
    assert!(
        violations.is_empty(),
        "{} violations, such as {:#?}",
        violations.len(),
        &violations[..violations.len().min(10)]
    );
    assert!(!dead.is_empty(), "some messages are refused by the target and should be dead");
}

/// How many messages wait anywhere but before a trigger, where the next tick always waits.
async fn waiting(installation: &Installation) -> u64 {
    let queues = installation.api("/queues").await;
    let queues = queues["queues"].as_array().cloned().unwrap_or_default();
    let actions = queues.iter().filter(|queue| !queue["queue"].as_str().is_some_and(|name| name.ends_with("/source")));
    actions
        .map(|queue| ["ready", "leased", "delayed"].iter().filter_map(|state| queue[*state].as_u64()).sum::<u64>())
        .sum()
}

/// What lies in the dead letters: only the slow target refuses.
async fn dead_items(installation: &Installation) -> Vec<Item> {
    let letters = installation.dead_letters("slow").await;
    letters.iter().map(|letter| Item::new("slow", &letter["message"]["body"]["id"])).collect()
}

/// The flows, each a thing that crashes could break.
fn flows(target: &Target) -> Vec<(&'static str, String)> {
    let deliver = |route: &str| {
        let url = target.url(&format!("/deliver/{route}"));
        format!("use: http.request, with: {{ method: POST, url: \"{url}\", body: \"{{{{ $ }}}}\" }}")
    };
    vec![
        (
            "fan-out.yaml",
            format!(
                "name: fan-out
steps:
  form: {{ use: webhook.receive }}
  person: {{ use: transform.map, after: form, with: {{ map: {{ id: '{{{{ number }}}}', name: '{{{{ first & last }}}}' }} }} }}
  left: {{ after: person, {} }}
  right: {{ after: person, {} }}
",
                deliver("left"),
                deliver("right")
            ),
        ),
        (
            "lines.yaml",
            format!(
                "name: lines
steps:
  order: {{ use: webhook.receive }}
  split: {{ use: transform.split, after: order, with: {{ items: '{{{{ lines }}}}' }} }}
  push: {{ after: split, {} }}
",
                deliver("line")
            ),
        ),
        (
            "batches.yaml",
            format!(
                "name: batches
steps:
  form: {{ use: webhook.receive }}
  batch: {{ use: transform.aggregate, after: form, with: {{ count: {BATCH}, timeout: 2s }} }}
  push: {{ after: batch, {} }}
",
                deliver("batch")
            ),
        ),
        (
            "polled.yaml",
            format!(
                "name: polled
steps:
  source:
    use: http.poll
    schedule: {{ every: 1s }}
    with: {{ url: '{}', items: items, id: id, cursor: {{ field: id, param: since }} }}
  push: {{ after: source, {} }}
",
                target.url("/items"),
                deliver("polled")
            ),
        ),
        (
            "slow.yaml",
            format!(
                "name: slow
steps:
  form: {{ use: webhook.receive }}
  push: {{ after: form, {} }}
",
                deliver("slow")
            ),
        ),
    ]
}
