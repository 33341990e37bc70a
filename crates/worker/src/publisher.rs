//! Publishing: many publications are under way at the same time, each until it is confirmed.
//! What is refused is published again, for ever: the input is held meanwhile, nothing is lost.

use std::time::Duration;

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    options::BasicPublishOptions,
    types::{AMQPValue, ShortString},
};

use crate::{lines::Lines, publication::Publication};

/// Publications of one delivery that may be unconfirmed at the same time, and their bytes.
const MOST_UNCONFIRMED: usize = 256;
const MOST_BYTES: usize = 4 << 20;
/// The waits before a refused publication is tried again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Where publications go.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) channel: Channel,
    pub(crate) exchange: ShortString,
    /// 2 is durable, 1 is not.
    pub(crate) delivery_mode: u8,
    pub(crate) lines: Lines,
}

/// Publishes what comes of one delivery.
pub(crate) struct Publisher {
    target: Target,
    unconfirmed: FuturesUnordered<BoxFuture<'static, lapin::Result<usize>>>,
    bytes: usize,
}

impl Publisher {
    pub(crate) fn new(target: Target) -> Self {
        Self { target, unconfirmed: FuturesUnordered::new(), bytes: 0 }
    }

    /// Sends a publication; waits only while too much is unconfirmed.
    pub(crate) async fn publish(&mut self, publication: Publication) -> lapin::Result<()> {
        let size = publication.payload.len();
        while self.unconfirmed.len() >= MOST_UNCONFIRMED || (self.bytes > 0 && self.bytes + size > MOST_BYTES) {
            self.confirm_one().await?;
        }
        let sent = self.target.send(&publication).await?;
        self.bytes += size;
        self.unconfirmed.push(Box::pin(self.target.clone().confirm(publication, sent)));
        Ok(())
    }

    async fn confirm_one(&mut self) -> lapin::Result<()> {
        if let Some(size) = self.unconfirmed.next().await.transpose()? {
            self.bytes -= size;
        }
        Ok(())
    }

    /// Waits until everything is confirmed.
    pub(crate) async fn confirmed(&mut self) -> lapin::Result<()> {
        while !self.unconfirmed.is_empty() {
            self.confirm_one().await?;
        }
        Ok(())
    }
}

impl Target {
    async fn send(&self, publication: &Publication) -> lapin::Result<PublisherConfirm> {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf8".into())
            .with_delivery_mode(self.delivery_mode)
            .with_headers(publication.headers.clone());
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let key = ShortString::from(publication.key.as_str());
        self.channel.basic_publish(self.exchange.clone(), key, options, &publication.payload, properties).await
    }

    /// Waits until a publication is confirmed; returns its size in bytes.
    async fn confirm(self, mut publication: Publication, mut sent: PublisherConfirm) -> lapin::Result<usize> {
        let mut wait = FIRST_WAIT;
        let mut retry = 0u32;
        loop {
            match sent.await? {
                Confirmation::Ack(None) | Confirmation::NotRequested => return Ok(publication.payload.len()),
                Confirmation::Ack(Some(_)) => self.refused(&publication, "nothing is bound to its key"),
                Confirmation::Nack(_) => self.refused(&publication, "it was refused"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            retry = retry.saturating_add(1);
            publication.headers.insert("retry".into(), AMQPValue::LongUInt(retry));
            sent = self.send(&publication).await?;
        }
    }

    fn refused(&self, publication: &Publication, why: &str) {
        self.lines.warn(&format!("a publication with the key {} is tried again: {why}", publication.key));
    }
}
