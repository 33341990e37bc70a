//! The shell around the protocol: sockets, clocks and the step behind a connection. It never
//! waits for one side without watching the other, and for nobody for ever.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Connection,
    content::Publication,
    event::{Event, Limits},
};
use crate::{board::Dispatch, environment::FRAME_MAX, gateway::Shared, guests::Guest, places::Places};

/// Bytes that are read at once.
const READ: usize = 64 * 1024;
/// Bytes that wait to be sent before nothing more is read.
const BACKLOG: usize = 1 << 20;
/// How long after a goodbye the other side may take to answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a publication that cannot be stored waits, where it cannot be refused.
const AGAIN: Duration = Duration::from_millis(500);

/// Takes connections until it is told to stop.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let limits = &shared.settings.limits;
    let places = Places::new(limits.connections, limits.address_connections);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of files or memory: others need to end first.
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        let Some(place) = places.take(peer.ip()) else {
            tracing::warn!(%peer, "a connection was refused: there are too many");
            continue;
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            Link::new(shared, stream, stop).run().await;
            drop(place);
        });
    }
}

/// One connection with everything around it.
struct Link {
    shared: Arc<Shared>,
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    protocol: Connection,
    guest: Option<Arc<Guest>>,
    /// Consumers by channel and tag; those that fetch have an empty tag.
    seats: HashMap<(u16, String), u64>,
    inbox: mpsc::UnboundedReceiver<Dispatch>,
    push: mpsc::UnboundedSender<Dispatch>,
    stop: CancellationToken,
    leave: CancellationToken,
    began: Instant,
    read_at: Instant,
    wrote_at: Instant,
    /// Since when what is to be sent has not moved.
    stuck_since: Instant,
    goodbye_at: Option<Instant>,
}

impl Link {
    fn new(shared: Arc<Shared>, stream: TcpStream, stop: CancellationToken) -> Self {
        let limits = &shared.settings.limits;
        let protocol = Connection::new(Limits {
            name: format!("consumer-{}", hex::encode(rand::random::<[u8; 12]>())),
            frame: FRAME_MAX,
            channels: limits.channels,
            heartbeat: u16::try_from(limits.heartbeat.as_secs()).unwrap_or(u16::MAX),
            body: usize::try_from(limits.body.0).unwrap_or(usize::MAX),
            budget: shared.budget.clone(),
        });
        let (read, write) = stream.into_split();
        let (push, inbox) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            shared,
            read,
            write,
            protocol,
            guest: None,
            seats: HashMap::new(),
            inbox,
            push,
            stop,
            leave: CancellationToken::new(),
            began: now,
            read_at: now,
            wrote_at: now,
            stuck_since: now,
            goodbye_at: None,
        }
    }

    async fn run(mut self) {
        let mut buffer = vec![0; READ];
        loop {
            while let Some(event) = self.protocol.next_event() {
                self.handle(event).await;
            }
            if self.protocol.is_done() && self.protocol.out().is_empty() {
                break;
            }
            if !self.turn(&mut buffer).await {
                break;
            }
        }
        self.end();
    }

    /// Waits for the next thing that happens; false if the connection is over.
    async fn turn(&mut self, buffer: &mut [u8]) -> bool {
        let pending = self.protocol.out().len();
        let deadline = self.deadline(pending);
        let (leave, stop) = (self.leave.clone(), self.stop.clone());
        let saying_goodbye = self.goodbye_at.is_some();
        tokio::select! {
            // The clock comes last: after a pause of the whole machine nobody is silent who said
            // something meanwhile.
            biased;
            () = leave.cancelled(), if !saying_goodbye => self.goodbye("this worker is not wanted any more"),
            () = stop.cancelled(), if !saying_goodbye => self.goodbye("the gateway ends"),
            written = self.write.write(self.protocol.out()), if pending > 0 => match written {
                Ok(0) | Err(_) => return false,
                Ok(length) => {
                    self.wrote_at = Instant::now();
                    self.stuck_since = self.wrote_at;
                    self.protocol.sent(length);
                }
            },
            read = self.read.read(buffer), if pending < BACKLOG && !self.protocol.is_done() => match read {
                Ok(0) | Err(_) => return false,
                Ok(length) => {
                    self.read_at = Instant::now();
                    self.protocol.receive(&buffer[..length]);
                }
            },
            Some(dispatch) = self.inbox.recv(), if pending < BACKLOG && self.protocol.is_running() => {
                self.deliver_all(dispatch);
            }
            () = tokio::time::sleep_until(deadline) => return self.time_is_up(),
        }
        if pending == 0 {
            self.stuck_since = Instant::now();
        }
        true
    }

    /// When something has to be done although nothing happens.
    fn deadline(&self, pending: usize) -> Instant {
        let limits = &self.shared.settings.limits;
        if let Some(goodbye) = self.goodbye_at {
            return goodbye + FAREWELL;
        }
        if !self.protocol.is_running() {
            return self.began + limits.handshake;
        }
        let mut deadline = Instant::now() + limits.stalled;
        let beat = self.beat();
        if pending > 0 {
            deadline = deadline.min(self.stuck_since + limits.stalled);
        } else if !beat.is_zero() {
            deadline = deadline.min(self.wrote_at + beat / 2);
        }
        if !beat.is_zero() {
            deadline = deadline.min(self.read_at + beat * 3);
        }
        deadline.max(Instant::now() + Duration::from_millis(1))
    }

    fn beat(&self) -> Duration {
        Duration::from_secs(self.protocol.heartbeat().into())
    }

    /// Does what is due; false if the connection is over.
    fn time_is_up(&mut self) -> bool {
        let now = Instant::now();
        let limits = &self.shared.settings.limits;
        if self.goodbye_at.is_some() || !self.protocol.is_running() {
            return false;
        }
        let beat = self.beat();
        if !self.protocol.out().is_empty() && now >= self.stuck_since + limits.stalled {
            self.note("a worker that reads nothing was disconnected");
            return false;
        }
        if !beat.is_zero() && now >= self.read_at + beat * 3 {
            self.note("a worker that is silent was disconnected");
            return false;
        }
        if !beat.is_zero() && self.protocol.out().is_empty() && now >= self.wrote_at + beat / 2 {
            self.protocol.beat();
        }
        true
    }

    fn note(&self, what: &str) {
        let worker = self.guest.as_ref().map(|guest| guest.name.as_str());
        tracing::warn!(worker, "{what}");
    }

    fn goodbye(&mut self, reason: &str) {
        self.protocol.end(reason);
        self.leave_seats();
        self.goodbye_at = Some(Instant::now());
    }

    /// Takes no more messages.
    fn leave_seats(&mut self) {
        let seats = std::mem::take(&mut self.seats);
        if let Some(guest) = &self.guest {
            seats.into_values().for_each(|seat| guest.step.unseat(seat));
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Login { user, password } => self.login(&user, &password),
            Event::Opened => {}
            Event::Consume { channel, tag, credit } => self.sit(channel, tag, credit, true),
            Event::Cancel { channel, tag } => self.leave_seat(&(channel, tag)),
            Event::Credit { channel, credit } => self.credit(channel, credit),
            Event::Get { channel, credit } => self.get(channel, credit),
            Event::Publish(publication) => self.publish(*publication).await,
            Event::Settle { held, verdict } => {
                if let Some(guest) = &self.guest {
                    guest.step.settle(&guest.name, held, verdict);
                }
            }
            Event::ChannelGone { channel, held } => {
                let seats: Vec<_> = self.seats.keys().filter(|(id, _)| *id == channel).cloned().collect();
                seats.iter().for_each(|seat| self.leave_seat(seat));
                if let Some(guest) = &self.guest {
                    guest.step.lose(held);
                }
            }
            Event::Refused { code, text } => {
                let worker = self.guest.as_ref().map(|guest| guest.name.as_str());
                tracing::warn!(worker, code, "refused: {text}");
                if self.protocol.is_closing() {
                    self.leave_seats();
                    self.goodbye_at.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    fn login(&mut self, user: &str, password: &str) {
        let guest = self.shared.guests.enter(user, password, |secrets| &secrets.amqp);
        let guest = guest.filter(|guest| guest.step.connect(&guest.name));
        self.protocol.admit(guest.as_ref().map(|guest| guest.step.names.scope(guest.spec().prefetch.max(1))));
        if let Some(guest) = guest {
            self.leave = guest.leaving();
            self.guest = Some(guest);
        }
    }

    fn sit(&mut self, channel: u16, tag: String, credit: u32, pushed: bool) {
        let Some(guest) = &self.guest else { return };
        let push = pushed.then(|| self.push.clone());
        let seat = guest.step.seat(&guest.name, channel, &tag, credit, push);
        self.seats.insert((channel, tag), seat);
    }

    fn leave_seat(&mut self, key: &(u16, String)) {
        if let (Some(seat), Some(guest)) = (self.seats.remove(key), &self.guest) {
            guest.step.unseat(seat);
        }
    }

    fn credit(&self, channel: u16, credit: u32) {
        let Some(guest) = &self.guest else { return };
        for ((id, _), seat) in &self.seats {
            if *id == channel {
                guest.step.set_credit(*seat, credit);
            }
        }
    }

    /// Delivers what is there, to be sent at once.
    fn deliver_all(&mut self, first: Dispatch) {
        let mut next = Some(first);
        while let Some(dispatch) = next {
            self.deliver(dispatch);
            next = (self.protocol.out().len() < BACKLOG).then(|| self.inbox.try_recv().ok()).flatten();
        }
    }

    fn deliver(&mut self, dispatch: Dispatch) {
        let Dispatch { number, channel, tag, content } = &dispatch;
        if !self.protocol.deliver(*channel, tag, *number, content)
            && let Some(guest) = &self.guest
        {
            guest.step.take_back(dispatch);
        }
    }

    fn get(&mut self, channel: u16, credit: u32) {
        let key = (channel, String::new());
        if !self.seats.contains_key(&key) {
            self.sit(channel, String::new(), credit, false);
        }
        let (Some(guest), Some(seat)) = (self.guest.clone(), self.seats.get(&key).copied()) else { return };
        match guest.step.fetch(&guest.name, seat) {
            None => {
                self.protocol.answer_get(channel, None);
            }
            Some(dispatch) => {
                if !self.protocol.answer_get(channel, Some((dispatch.number, &dispatch.content))) {
                    guest.step.take_back(dispatch);
                }
            }
        }
    }

    /// Stores a publication, confirms it or says that it was not taken. Without confirms it can
    /// only wait.
    async fn publish(&mut self, publication: Publication) {
        let Some(guest) = self.guest.clone() else { return };
        loop {
            let Err(reason) = guest.step.publish(&guest.name, &publication).await else { break };
            let (queue, worker) = (&guest.spec().queue, &guest.name);
            tracing::warn!(%queue, worker, key = publication.key, "a publication was not taken: {}", reason.text);
            if let Some(number) = publication.number {
                self.protocol.confirm(publication.channel, number, false);
                return;
            }
            if !reason.passes {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.leave.cancelled() => return,
                () = self.stop.cancelled() => return,
            }
        }
        if let Some(number) = publication.number {
            self.protocol.confirm(publication.channel, number, true);
        }
    }

    /// Gives everything back.
    fn end(mut self) {
        let held = self.protocol.take_unsettled();
        self.leave_seats();
        let Some(guest) = self.guest.take() else { return };
        self.inbox.close();
        while let Ok(dispatch) = self.inbox.try_recv() {
            guest.step.take_back(dispatch);
        }
        guest.step.lose(held);
        guest.step.disconnect(&guest.name);
    }
}
