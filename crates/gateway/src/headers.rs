//! AMQP headers: the few kinds of values that mean something here.

use amq_protocol::{
    protocol::BasicProperties,
    types::{AMQPValue, FieldTable},
};

use crate::amqp::short;

/// Headers that are being put together.
#[derive(Default)]
pub(crate) struct Headers {
    table: FieldTable,
}

impl Headers {
    pub(crate) fn text(&mut self, name: &str, value: impl Into<String>) {
        self.table.insert(short(name), AMQPValue::LongString(value.into().into_bytes().into()));
    }

    pub(crate) fn number(&mut self, name: &str, value: i64) {
        // Old clients read small numbers as numbers and large ones as objects.
        let value = i32::try_from(value).map_or(AMQPValue::LongLongInt(value), AMQPValue::LongInt);
        self.table.insert(short(name), value);
    }

    pub(crate) fn into_table(self) -> FieldTable {
        self.table
    }
}

fn value<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A header that is a text.
pub(crate) fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    match value(properties, name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// A header that is a whole number.
pub(crate) fn number(properties: &BasicProperties, name: &str) -> Option<i64> {
    match value(properties, name)? {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

/// Whether a header says yes.
pub(crate) fn is_set(properties: &BasicProperties, name: &str) -> bool {
    matches!(value(properties, name), Some(AMQPValue::Boolean(true)))
}
