//! A small gateway for tests of containers: lines over TCP instead of the step contract, with the
//! same face to the engine. What it shows of a worker is what a real container did.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use flowline_sdk::{Gateway, GatewayStep, Host, Presence, Produced, Remote, RemoteStep, prelude::*};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// The gateway of a test.
#[derive(Default)]
pub(crate) struct TestGateway {
    address: Arc<Mutex<Option<SocketAddr>>>,
    doors: Arc<Doors>,
}

/// Who may come in, by token.
type Doors = Mutex<BTreeMap<String, (Arc<TestStep>, String)>>;

#[async_trait]
impl Gateway for TestGateway {
    async fn listen(&self, address: IpAddr) -> io::Result<()> {
        if self.address.lock().unwrap().is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind((address, 0)).await?;
        *self.address.lock().unwrap() = Some(listener.local_addr()?);
        let doors = Arc::clone(&self.doors);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&doors)));
            }
        });
        Ok(())
    }

    fn open(&self, step: RemoteStep, _: Arc<dyn Host>) -> Arc<dyn GatewayStep> {
        let step_undoes = step.config["does"] == "undo";
        Arc::new_cyclic(|me| TestStep {
            me: me.clone(),
            step,
            address: Arc::clone(&self.address),
            doors: Arc::clone(&self.doors),
            room: watch::Sender::new(0),
            seats: Mutex::default(),
            free: Mutex::default(),
            freed: Notify::new(),
            awaits_shutdown: AtomicBool::new(step_undoes),
        })
    }
}

struct Parcel {
    line: String,
    answer: oneshot::Sender<Result<String, Fault>>,
}

struct Seat {
    presence: Presence,
    end: CancellationToken,
}

struct TestStep {
    me: std::sync::Weak<TestStep>,
    step: RemoteStep,
    address: Arc<Mutex<Option<SocketAddr>>>,
    doors: Arc<Doors>,
    room: watch::Sender<usize>,
    seats: Mutex<BTreeMap<String, (Seat, Option<Fault>)>>,
    free: Mutex<VecDeque<mpsc::Sender<Parcel>>>,
    freed: Notify,
    /// Whether there is something to undo for a component that is told to do `undo`.
    awaits_shutdown: AtomicBool,
}

impl TestStep {
    fn seat(&self, worker: &str, change: impl FnOnce(&mut Presence)) {
        if let Some((seat, _)) = self.seats.lock().unwrap().get_mut(worker) {
            seat.presence.heard = Instant::now();
            change(&mut seat.presence);
        }
    }

    fn release(&self, desk: mpsc::Sender<Parcel>) {
        self.free.lock().unwrap().push_back(desk);
        self.freed.notify_one();
    }

    async fn take(&self) -> mpsc::Sender<Parcel> {
        loop {
            let freed = self.freed.notified();
            let (found, more) = {
                let mut free = self.free.lock().unwrap();
                free.retain(|desk| !desk.is_closed());
                (free.pop_front(), !free.is_empty())
            };
            if more {
                self.freed.notify_one();
            }
            match found {
                Some(desk) => return desk,
                None => freed.await,
            }
        }
    }

    fn lost(&self, worker: &str) -> Fault {
        let reason = self.seats.lock().unwrap().get(worker).and_then(|(_, reason)| reason.clone());
        reason.unwrap_or_else(|| Fault::retry("worker_lost", "the connection was lost"))
    }
}

#[async_trait]
impl Remote for TestStep {
    fn room(&self) -> watch::Receiver<usize> {
        self.room.subscribe()
    }

    async fn run(&self, _: &Context, _: Value, input: Message) -> Result<Produced, Fault> {
        loop {
            let desk = self.take().await;
            let (answer, answered) = oneshot::channel();
            if desk.send(Parcel { line: format!("{}\n", input.body), answer }).await.is_err() {
                continue;
            }
            let answer = answered.await.unwrap_or_else(|_| Err(Fault::retry("worker_lost", "it went away")))?;
            return match answer.trim() {
                "ok" => Ok(Produced { emits: vec![Emit::new(input.body)], more: false }),
                other => Ok(Produced { emits: vec![Emit::new(other)], more: false }),
            };
        }
    }
}

#[async_trait]
impl GatewayStep for TestStep {
    async fn awaits_shutdown(&self) -> bool {
        self.awaits_shutdown.load(Relaxed)
    }

    fn admit_shutdown(&self, worker: &str) -> Vec<(String, String)> {
        self.awaits_shutdown.store(false, Relaxed);
        [self.admit(worker), vec![("SHUTDOWN".to_owned(), "1".to_owned())]].concat()
    }

    fn admit(&self, worker: &str) -> Vec<(String, String)> {
        let now = Instant::now();
        let presence = Presence { connected: false, consuming: false, holding: 0, holding_since: None, heard: now };
        let seat = Seat { presence, end: CancellationToken::new() };
        self.seats.lock().unwrap().insert(worker.to_owned(), (seat, None));
        let token = format!("{:032x}", rand::random::<u128>());
        self.doors.lock().unwrap().insert(token.clone(), (self.me.upgrade().unwrap(), worker.to_owned()));
        let address = self.address.lock().unwrap().unwrap();
        let mut environment = vec![
            ("HOST".to_owned(), address.ip().to_string()),
            ("PORT".to_owned(), address.port().to_string()),
            ("TOKEN".to_owned(), token),
        ];
        for (name, value) in self.step.config.as_object().into_iter().flatten() {
            environment.push((name.to_uppercase(), value.as_str().unwrap_or_default().to_owned()));
        }
        environment
    }

    fn expel(&self, worker: &str, reason: Fault) {
        self.doors.lock().unwrap().retain(|_, (_, known)| known != worker);
        if let Some((seat, fault)) = self.seats.lock().unwrap().get_mut(worker) {
            fault.get_or_insert(reason);
            seat.end.cancel();
        }
    }

    fn presence(&self, worker: &str) -> Option<Presence> {
        self.seats.lock().unwrap().get(worker).filter(|(_, expelled)| expelled.is_none()).map(|(seat, _)| seat.presence)
    }
}

async fn serve(stream: TcpStream, doors: Arc<Doors>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let Ok(Some(token)) = lines.next_line().await else { return };
    let Some((step, worker)) = doors.lock().unwrap().get(token.trim()).cloned() else { return };
    let end = step.seats.lock().unwrap()[&worker].0.end.clone();
    let (desk, mut parcels) = mpsc::channel::<Parcel>(1);
    step.seat(&worker, |presence| {
        presence.connected = true;
        presence.consuming = true;
    });
    step.room.send_modify(|room| *room += 1);
    step.release(desk.clone());
    loop {
        let parcel = tokio::select! {
            () = end.cancelled() => break,
            _ = lines.next_line() => break,
            Some(parcel) = parcels.recv() => parcel,
        };
        step.seat(&worker, |presence| (presence.holding, presence.holding_since) = (1, Some(Instant::now())));
        let answered = async {
            write.write_all(parcel.line.as_bytes()).await.ok()?;
            lines.next_line().await.ok()?
        };
        let answer = tokio::select! {
            () = end.cancelled() => None,
            answer = answered => answer,
        };
        step.seat(&worker, |presence| (presence.holding, presence.holding_since) = (0, None));
        let gone = answer.is_none();
        let _ = parcel.answer.send(answer.ok_or_else(|| step.lost(&worker)));
        if gone {
            break;
        }
        step.release(desk.clone());
    }
    parcels.close();
    step.seat(&worker, |presence| {
        presence.connected = false;
        presence.consuming = false;
    });
    step.room.send_modify(|room| *room -= 1);
}
