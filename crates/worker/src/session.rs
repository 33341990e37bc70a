//! One connection to the broker: takes messages as long as it lasts.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions},
    types::{FieldTable, ShortString},
    uri::AMQPUri,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Worker, publisher::Target, work};

/// How long a connection may take to come about, and to be closed in order.
const CONNECT: Duration = Duration::from_secs(30);
const CLOSE: Duration = Duration::from_secs(5);
/// The largest frame in bytes: the library keeps room for 32 of them in each direction, and with
/// the 128 KiB that brokers allow this would be the larger part of a worker's memory.
const FRAME: u32 = 16 << 10;
/// What AMQP says when all is well.
const FINE: u16 = 200;

/// Why a connection is of no use any more. Never holds the broker's address, which has a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
    #[error("the broker's address is no AMQP address")]
    Address,
    #[error("the connection did not come about within {CONNECT:?}")]
    Slow,
    #[error("the broker gives this worker no messages any more")]
    Cancelled,
}

/// A connection that takes messages.
pub(crate) struct Session {
    worker: Arc<Worker>,
    connection: Connection,
    target: Target,
    consumer: Consumer,
}

impl Session {
    /// Connects and asks for messages.
    pub(crate) async fn open(worker: &Arc<Worker>) -> Result<Self, SessionError> {
        tokio::time::timeout(CONNECT, Self::connect(worker)).await.map_err(|_| SessionError::Slow)?
    }

    async fn connect(worker: &Arc<Worker>) -> Result<Self, SessionError> {
        let settings = &worker.settings;
        let broker = &settings.broker;
        let properties = ConnectionProperties::default().with_connection_name(settings.container.as_str().into());
        let mut uri: AMQPUri = broker.url.parse().map_err(|_| SessionError::Address)?;
        uri.query.frame_max = Some(FRAME);
        let connection = Connection::connect_uri(uri, properties).await?;
        let channel: Channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_qos(broker.prefetch, BasicQosOptions::default()).await?;
        let (queue, tag) = (ShortString::from(broker.queue.as_str()), ShortString::from(settings.container.as_str()));
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
        worker.lines.info("connected, waiting for messages");
        let exchange = ShortString::from(broker.exchange.as_str());
        let delivery_mode = if broker.persistent { 2 } else { 1 };
        let target = Target { channel, exchange, delivery_mode, lines: worker.lines.clone() };
        Ok(Self { worker: Arc::clone(worker), connection, target, consumer })
    }

    /// Works until it is told to stop, and then finishes what it holds. An error means that the
    /// connection is lost; what was held is dropped.
    pub(crate) async fn serve(mut self, told: CancellationToken) -> Result<(), SessionError> {
        let mut held = JoinSet::new();
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                Some(done) = held.join_next() => ended(done)?,
                () = told.cancelled(), if !stopping => {
                    stopping = true;
                    let tag = self.consumer.tag();
                    self.target.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
                }
                delivery = self.consumer.next() => match delivery.transpose()? {
                    Some(delivery) => {
                        held.spawn(work::process(Arc::clone(&self.worker), self.target.clone(), delivery));
                    }
                    None if stopping => break,
                    None => return Err(SessionError::Cancelled),
                },
            }
        }
        while let Some(done) = held.join_next().await {
            ended(done)?;
        }
        self.close().await;
        Ok(())
    }

    /// Closes in order; all is acknowledged, so it does no harm if that fails.
    async fn close(self) {
        let closed = self.connection.close(FINE, "finished".into());
        let _ = tokio::time::timeout(CLOSE, closed).await;
        self.worker.lines.info("finished");
    }
}

/// A panic here is one of ours, as those of operations are caught: the message comes again.
fn ended(done: Result<lapin::Result<()>, tokio::task::JoinError>) -> Result<(), SessionError> {
    match done {
        Ok(done) => done.map_err(SessionError::Amqp),
        Err(panic) => Err(lapin::Error::from(std::io::Error::other(panic)).into()),
    }
}
