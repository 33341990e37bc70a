//! From bytes to frames and back, within bounds: a frame is looked at only once it is known to be
//! small enough, and its tables only once they cannot be nested deeply enough to hurt.
//!
//! The wire format is amq-protocol's; nothing here knows more of it than what is around a payload.

use amq_protocol::{
    frame::{
        AMQPFrame, AMQPFrameType, AMQPRawFrame, WriteContext, gen_frame,
        parsing::{parse_content_header, parse_frame_type, parse_protocol_header, parse_raw_frame},
    },
    protocol::{AMQPHardError, parse_class},
    types::parsing::{ParserError, ParserResult, parse_id, parse_long_uint},
};
use bytes::{Buf, BytesMut};

use super::refusal::Refusal;

/// Bytes of a frame around its payload.
pub(crate) const FRAME_OVERHEAD: usize = 8;
/// Frames before the sizes are agreed on.
const HANDSHAKE_FRAME: usize = 16 * 1024;
/// Tables and lists that may be in one frame: a bound of how deep they are nested, since reading
/// them is recursive.
const MOST_TABLES: usize = 64;
/// What a frame with a part of a body begins with, and what every frame ends with.
const BODY: u8 = 3;
const FRAME_END: u8 = 206;
/// The classes of methods that the protocol has.
const CLASSES: [u16; 8] = [10, 20, 30, 40, 50, 60, 85, 90];

/// Takes bytes and gives frames.
pub(crate) struct Frames {
    buffer: BytesMut,
    largest: usize,
}

impl Frames {
    pub(crate) fn new() -> Self {
        Self { buffer: BytesMut::new(), largest: HANDSHAKE_FRAME }
    }

    /// Sets the size of the largest frame, as agreed on.
    pub(crate) fn agree(&mut self, largest: usize) {
        self.largest = largest;
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; after a refusal there is none.
    pub(crate) fn next(&mut self) -> Result<Option<AMQPFrame>, Refusal> {
        let Some(read) = self.read()? else { return Ok(None) };
        let (length, frame) = read;
        self.buffer.advance(length);
        Ok(Some(frame))
    }

    fn read(&self) -> Result<Option<(usize, AMQPFrame)>, Refusal> {
        let Some((rest, kind)) = whole(parse_frame_type(&self.buffer[..]), "a frame of no known type")? else {
            return Ok(None);
        };
        if kind == AMQPFrameType::ProtocolHeader {
            let parsed = whole(parse_protocol_header(rest), "no protocol header")?;
            return Ok(parsed.map(|(rest, version)| (self.length(rest), AMQPFrame::ProtocolHeader(version))));
        }
        if !self.is_small_enough(rest)? {
            return Ok(None);
        }
        let parsed = whole(parse_raw_frame(kind)(rest), "a frame that does not end where it should")?;
        let Some((rest, raw)) = parsed else { return Ok(None) };
        Ok(Some((self.length(rest), content(raw)?)))
    }

    fn length(&self, rest: &[u8]) -> usize {
        self.buffer.len() - rest.len()
    }

    /// Whether the size is known and allowed.
    fn is_small_enough(&self, rest: &[u8]) -> Result<bool, Refusal> {
        let Some((rest, _)) = whole(parse_id(rest), "no channel")? else { return Ok(false) };
        let Some((_, size)) = whole(parse_long_uint(rest), "no size")? else { return Ok(false) };
        if size as usize > self.largest - FRAME_OVERHEAD {
            let text = format!("a frame of {size} bytes; the largest is {}", self.largest);
            return Err(Refusal::hard(AMQPHardError::FRAMEERROR, text));
        }
        Ok(true)
    }
}

/// What was parsed, or none if bytes are missing.
fn whole<'a, T>(parsed: ParserResult<&'a [u8], T>, trouble: &str) -> Result<Option<(&'a [u8], T)>, Refusal> {
    match parsed {
        Ok(parsed) => Ok(Some(parsed)),
        Err(ParserError::Incomplete(_)) => Ok(None),
        Err(_) => Err(Refusal::hard(AMQPHardError::FRAMEERROR, trouble)),
    }
}

fn content(raw: AMQPRawFrame<&[u8]>) -> Result<AMQPFrame, Refusal> {
    let AMQPRawFrame { channel_id, frame_type, payload } = raw;
    match frame_type {
        AMQPFrameType::Method => {
            shallow(payload)?;
            let parsed = parse_class(payload);
            let (_, class) = parsed.ok().filter(|(rest, _)| rest.is_empty()).ok_or_else(|| unreadable(payload))?;
            Ok(AMQPFrame::Method(channel_id, class))
        }
        AMQPFrameType::Header => {
            shallow(payload)?;
            let parsed = parse_content_header(payload);
            let (_, header) = parsed.ok().filter(|(rest, _)| rest.is_empty()).ok_or_else(syntax)?;
            Ok(AMQPFrame::Header(channel_id, header))
        }
        AMQPFrameType::Body => Ok(AMQPFrame::Body(channel_id, payload.to_vec())),
        AMQPFrameType::Heartbeat if channel_id == 0 => Ok(AMQPFrame::Heartbeat),
        AMQPFrameType::Heartbeat => Ok(AMQPFrame::InvalidHeartbeat(channel_id)),
        AMQPFrameType::ProtocolHeader => Err(syntax()),
    }
}

fn syntax() -> Refusal {
    Refusal::hard(AMQPHardError::SYNTAXERROR, "a frame that cannot be read")
}

fn unreadable(payload: &[u8]) -> Refusal {
    match parse_id(payload) {
        Ok((_, class)) if !CLASSES.contains(&class) => {
            Refusal::hard(AMQPHardError::COMMANDINVALID, format!("there is no class {class}"))
        }
        _ => syntax(),
    }
}

/// Refuses what could hold more tables in tables than reading them has stack for.
fn shallow(payload: &[u8]) -> Result<(), Refusal> {
    let could_begin = |at: usize| {
        let fits = |(rest, size): (&[u8], u32)| size as usize <= rest.len();
        matches!(payload[at], b'F' | b'A') && parse_long_uint(&payload[at + 1..]).is_ok_and(fits)
    };
    let tables = (0..payload.len()).filter(|at| could_begin(*at)).count();
    if tables > MOST_TABLES {
        return Err(Refusal::hard(AMQPHardError::SYNTAXERROR, "tables in tables in tables: too many"));
    }
    Ok(())
}

/// Writes a frame behind what is in the buffer.
pub(crate) fn write(frame: &AMQPFrame, out: &mut Vec<u8>) {
    let end = out.len();
    match gen_frame(frame)(WriteContext::from(std::mem::take(out))) {
        Ok(written) => *out = written.into_inner().0,
        // Writing into memory does not fail; what was there before is lost with the connection.
        Err(error) => tracing::error!(%error, end, "a frame could not be written"),
    }
}

/// Writes a part of a body, without a copy of its own.
pub(crate) fn write_body(channel: u16, part: &[u8], out: &mut Vec<u8>) {
    out.reserve(part.len() + FRAME_OVERHEAD);
    out.push(BODY);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(part);
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use amq_protocol::{
        protocol::{AMQPClass, channel},
        types::{AMQPValue, FieldTable},
    };

    use super::*;

    fn refused(bytes: &[u8]) -> u16 {
        let mut frames = Frames::new();
        frames.push(bytes);
        frames.next().unwrap_err().code()
    }

    #[test]
    fn frames_come_whole_however_the_bytes_come() {
        let open = AMQPFrame::Method(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
        let body = AMQPFrame::Body(1, b"hello".to_vec());
        let mut bytes = Vec::new();
        write(&open, &mut bytes);
        write_body(1, b"hello", &mut bytes);
        let mut frames = Frames::new();
        let mut read = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            read.extend(frames.next().unwrap());
        }
        assert_eq!(read, [open, body]);
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(refused(b"GET / HTTP/1.1\r\n"), 501);
        assert_eq!(refused(&[3, 0, 1, 0xff, 0xff, 0xff, 0xff]), 501);
        assert_eq!(refused(&[3, 0, 1, 0, 0, 0, 1, b'x', 0]), 501);
        assert_eq!(refused(&[1, 0, 1, 0, 0, 0, 4, 0, 99, 0, 10, 206]), 503);
        assert_eq!(refused(&[1, 0, 1, 0, 0, 0, 2, 0, 60, 206]), 502);
    }

    #[test]
    fn deeply_nested_tables_are_refused_unread() {
        let mut table = FieldTable::default();
        for _ in 0..500 {
            let mut outer = FieldTable::default();
            outer.insert("t".into(), AMQPValue::FieldTable(table));
            table = outer;
        }
        let header = amq_protocol::frame::AMQPContentHeader {
            class_id: 60,
            body_size: 0,
            properties: amq_protocol::protocol::BasicProperties::default().with_headers(table),
        };
        let mut bytes = Vec::new();
        write(&AMQPFrame::Header(1, header), &mut bytes);
        assert_eq!(refused(&bytes), 502);
    }
}
