//! What `stream` and `call` substreams carry after the open header.
//!
//! A tunnel that loses the difference between "finished", "reset" and "cut off" truncates files without saying so, and
//! the mux's own end marks can't tell the three apart once one side has sent its own. So data is put in records, and
//! the ends are records too. Four bytes of header and at most 65,532 of payload make one 64 KiB frame of the mux.
//!
//! ```text
//! 0           1           4
//! | type      | length BE | payload
//! | u8, bit 7 | u24       |
//! | = LZ4     |           |
//! ```

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{Code, brief::cut, chunks::Chunks, limits, lz4, text::sanitize};

pub use crate::limits::MAX_RECORD_PAYLOAD;

/// Bytes before the payload.
pub const RECORD_HEADER_LEN: usize = 4;

/// Marks a compressed payload.
const LZ4: u8 = 0x80;

/// The code in front of a reset's text.
const RESET_CODE_LEN: usize = 4;

/// How much of a JSON error is told; it can contain text the peer chose.
const JSON_REASON_MAX: usize = 200;

/// What a record is.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Bytes of the service or the client.
    Data = 0,
    /// This direction is complete.
    End = 1,
    /// The substream ended early, and why.
    Reset = 2,
    /// Headers of a call, as JSON.
    Head = 3,
    /// Data that completes one JSON text of a streamed answer.
    Item = 4,
}

impl RecordKind {
    /// The number on the wire, without the compression bit.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind of a number on the wire.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::End),
            2 => Some(Self::Reset),
            3 => Some(Self::Head),
            4 => Some(Self::Item),
            _ => None,
        }
    }

    /// Whether its payload may be compressed. A [`Head`](Self::Head) may not: its secrets would lie beside what strangers
    /// choose, and the size of the two compressed together tells of both.
    pub fn may_be_compressed(self) -> bool {
        match self {
            Self::Data | Self::Item => true,
            Self::End | Self::Reset | Self::Head => false,
        }
    }

    /// The longest payload, in bytes; the same for what is compressed and for what comes out of it.
    pub fn limit(self) -> usize {
        match self {
            Self::Data | Self::Item => limits::MAX_RECORD_PAYLOAD,
            Self::Head => limits::HEAD_MAX,
            Self::End => limits::END_TEXT_MAX,
            Self::Reset => RESET_CODE_LEN + limits::END_TEXT_MAX,
        }
    }
}

/// One record, or (with [`Delivery::Streamed`]) a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Bytes.
    Data(Bytes),
    /// The last bytes of one JSON text of a streamed answer.
    Item(Bytes),
    /// Headers of a call: JSON, not yet parsed.
    Head(Bytes),
    /// This direction is complete; a call may say with which outcome.
    End(Option<EndStatus>),
    /// The substream is over.
    Reset {
        /// A [`Code`]'s number, or one of a later version.
        code: u32,
        /// For people. Chosen by the peer: show it through [`sanitize`].
        text: String,
    },
}

/// With which outcome a direction of a call ended, if not simply well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndStatus {
    /// What happened.
    pub code: Code,
    /// The same as a sentence. Chosen by the peer: show it through [`sanitize`].
    pub message: String,
}

/// How the payload of `Data` and `Item` is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As it arrives, in pieces. All pieces of an `Item` but its last are [`Record::Data`]. Nothing waits for the end
    /// of a record, and empty `Data` records don't show.
    Streamed,
    /// One [`Record`] for each on the wire, as datagrams need it.
    Whole,
}

/// The four bytes in front of `len` bytes of payload.
///
/// `len` is at most [`MAX_RECORD_PAYLOAD`]; that is the caller's to keep.
pub fn record_header(kind: RecordKind, len: usize) -> [u8; RECORD_HEADER_LEN] {
    debug_assert!(len <= MAX_RECORD_PAYLOAD, "a record of {len} bytes");
    let [.., a, b, c] = len.to_be_bytes();
    [kind.number(), a, b, c]
}

/// A record with its payload compressed; `None` if that would not be smaller, or if this kind never is.
///
/// `payload` is at most [`MAX_RECORD_PAYLOAD`]; that is the caller's to keep.
pub fn encode_compressed(kind: RecordKind, payload: &[u8]) -> Option<BytesMut> {
    if !kind.may_be_compressed() {
        return None;
    }
    let mut record = BytesMut::from(&[0; RECORD_HEADER_LEN][..]);
    if !lz4::compress(payload, &mut record) {
        return None;
    }
    let header = compressed_header(kind, record.len() - RECORD_HEADER_LEN);
    record[..RECORD_HEADER_LEN].copy_from_slice(&header);
    Some(record)
}

/// A record of a payload that is compressed already, as [`RecordDecoder::take_compressed`] gives it.
pub fn encode_as_it_came(kind: RecordKind, compressed: &[u8]) -> BytesMut {
    let mut record = BytesMut::with_capacity(RECORD_HEADER_LEN + compressed.len());
    record.extend_from_slice(&compressed_header(kind, compressed.len()));
    record.extend_from_slice(compressed);
    record
}

fn compressed_header(kind: RecordKind, len: usize) -> [u8; RECORD_HEADER_LEN] {
    let mut header = record_header(kind, len);
    header[0] |= LZ4;
    header
}

/// An `End` record. A long message is cut to fit.
pub fn encode_end(status: Option<&EndStatus>) -> Vec<u8> {
    let payload = status.map_or_else(Vec::new, end_payload);
    with_header(RecordKind::End, &payload)
}

/// A `Reset` record. A long text is cut to fit.
pub fn encode_reset(code: Code, text: &str) -> Vec<u8> {
    let text = cut(text, limits::END_TEXT_MAX);
    let mut payload = Vec::with_capacity(RESET_CODE_LEN + text.len());
    payload.extend_from_slice(&code.number().to_be_bytes());
    payload.extend_from_slice(text.as_bytes());
    with_header(RecordKind::Reset, &payload)
}

/// A `Head` record.
///
/// # Errors
/// [`RecordError::TooLarge`], or [`RecordError::Json`] for what can't be written as JSON.
pub fn encode_head(head: &impl Serialize) -> Result<Vec<u8>, RecordError> {
    let kind = RecordKind::Head;
    let payload = serde_json::to_vec(head).map_err(|error| json_error(kind, &error))?;
    if payload.len() > kind.limit() {
        return Err(RecordError::TooLarge { kind, len: payload.len(), limit: kind.limit() });
    }
    Ok(with_header(kind, &payload))
}

/// Cuts the records of one direction out of a byte stream.
///
/// Push what arrived, call [`next`](Self::next) until it gives `None`. Payloads are slices of what was pushed; only
/// what must come in one piece and didn't is copied.
#[derive(Debug)]
pub struct RecordDecoder {
    delivery: Delivery,
    bytes: Chunks,
    state: State,
    over: Over,
    lz4: bool,
    /// The compressed payload of the record that was handed out last.
    compressed: Option<Bytes>,
}

/// Where in a record the input stands.
#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    Payload {
        kind: RecordKind,
        left: usize,
    },
    /// As [`State::Payload`], and it has to be decompressed.
    Compressed {
        kind: RecordKind,
        len: usize,
    },
    /// The payload could not be decompressed.
    Broken {
        kind: RecordKind,
    },
}

/// Which end has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Ended,
    Reset,
}

impl RecordDecoder {
    /// A decoder at the begin of a direction.
    pub fn new(delivery: Delivery) -> Self {
        Self {
            delivery,
            bytes: Chunks::default(),
            state: State::Header,
            over: Over::No,
            lz4: false,
            compressed: None,
        }
    }

    /// The same, for a direction that may have compressed records. They are handed out as if they were not.
    #[must_use]
    pub fn with_lz4(mut self) -> Self {
        self.lz4 = true;
        self
    }

    /// Adds what arrived.
    pub fn push(&mut self, bytes: Bytes) {
        self.bytes.push(bytes);
    }

    /// The next record or piece of one; `None`: more bytes are needed.
    ///
    /// # Errors
    /// The bytes break the rules. There is no way on after that.
    #[expect(clippy::should_implement_trait, reason = "the end of an iterator would mean something else")]
    pub fn next(&mut self) -> Result<Option<Record>, RecordError> {
        self.compressed = None;
        loop {
            match self.state {
                State::Header => {
                    let Some(header) = self.bytes.peek::<RECORD_HEADER_LEN>() else { return Ok(None) };
                    self.state = self.read_header(header)?;
                    self.bytes.skip(RECORD_HEADER_LEN);
                }
                State::Payload { kind: kind @ (RecordKind::Data | RecordKind::Item), left }
                    if self.delivery == Delivery::Streamed =>
                {
                    if left == 0 && kind == RecordKind::Data {
                        self.state = State::Header;
                        continue;
                    }
                    let piece = self.bytes.take_piece(left);
                    if piece.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let left = left - piece.len();
                    if left > 0 {
                        self.state = State::Payload { kind, left };
                        return Ok(Some(Record::Data(piece)));
                    }
                    self.state = State::Header;
                    return self.read_payload(kind, piece).map(Some);
                }
                State::Payload { kind, left } => {
                    let Some(payload) = self.bytes.take(left) else { return Ok(None) };
                    self.state = State::Header;
                    return self.read_payload(kind, payload).map(Some);
                }
                State::Compressed { kind, len } => {
                    let Some(payload) = self.bytes.take(len) else { return Ok(None) };
                    // What comes behind a payload that is lost must not look like what comes behind its predecessor.
                    self.state = State::Broken { kind };
                    let plain = lz4::decompress(&payload, kind.limit())
                        .map_err(|reason| RecordError::Lz4 { kind, reason })?;
                    self.state = State::Header;
                    self.compressed = Some(payload);
                    return self.read_payload(kind, plain).map(Some);
                }
                State::Broken { kind } => {
                    let reason = "it has been refused already".to_owned();
                    return Err(RecordError::Lz4 { kind, reason });
                }
            }
        }
    }

    /// The payload of the record that was handed out last as it came, if it came compressed: for who passes it on to
    /// somebody who takes it so.
    pub fn take_compressed(&mut self) -> Option<Bytes> {
        self.compressed.take()
    }

    /// Whether everything pushed so far was whole records, all of them handed out.
    pub fn is_between_records(&self) -> bool {
        matches!(self.state, State::Header) && self.bytes.len() == 0
    }

    /// Bytes pushed and not handed out yet.
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// Judges a header before any of its payload is waited for.
    fn read_header(&self, [number, a, b, c]: [u8; 4]) -> Result<State, RecordError> {
        let compressed = number & LZ4 != 0;
        let number = number & !LZ4;
        let kind = RecordKind::from_number(number).ok_or(RecordError::UnknownKind { number })?;
        match self.over {
            Over::No => {}
            // Whoever has said all it had to say may still take back the question.
            Over::Ended if kind == RecordKind::Reset => {}
            Over::Ended => return Err(RecordError::AfterEnd { kind, end: RecordKind::End }),
            Over::Reset => return Err(RecordError::AfterEnd { kind, end: RecordKind::Reset }),
        }
        if compressed && !self.lz4 {
            return Err(RecordError::Compressed { kind });
        }
        if compressed && !kind.may_be_compressed() {
            return Err(RecordError::NeverCompressed { kind });
        }
        let len = u32::from_be_bytes([0, a, b, c]);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > kind.limit() {
            return Err(RecordError::TooLarge { kind, len, limit: kind.limit() });
        }
        if kind == RecordKind::Reset && len < RESET_CODE_LEN {
            return Err(RecordError::ShortReset { len });
        }
        Ok(if compressed { State::Compressed { kind, len } } else { State::Payload { kind, left: len } })
    }

    fn read_payload(&mut self, kind: RecordKind, payload: Bytes) -> Result<Record, RecordError> {
        let record = match kind {
            RecordKind::Data => Record::Data(payload),
            RecordKind::Item => Record::Item(payload),
            RecordKind::Head => Record::Head(payload),
            RecordKind::End => {
                self.over = Over::Ended;
                Record::End(read_end(&payload)?)
            }
            RecordKind::Reset => {
                self.over = Over::Reset;
                read_reset(&payload)?
            }
        };
        Ok(record)
    }
}

/// Why bytes are no record, or not one that may come now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A kind this version doesn't know.
    #[error("record type {number} is not known to this version; use matching versions on both ends")]
    UnknownKind {
        /// Its number.
        number: u8,
    },
    /// A compressed record where none was announced.
    #[error("a compressed {kind:?} record came, but compression was not announced for this substream")]
    Compressed {
        /// What is compressed.
        kind: RecordKind,
    },
    /// A compressed record of a kind that is never compressed.
    #[error("a compressed {kind:?} record came; only Data and Item are ever compressed")]
    NeverCompressed {
        /// What is compressed.
        kind: RecordKind,
    },
    /// A compressed payload that can't be decompressed.
    #[error("the payload of the compressed {kind:?} record can't be used: {reason}")]
    Lz4 {
        /// What is compressed.
        kind: RecordKind,
        /// What is wrong with it.
        reason: String,
    },
    /// Longer than its kind may be.
    #[error("a {kind:?} record of {len} bytes; at most {limit} are allowed")]
    TooLarge {
        /// What it is.
        kind: RecordKind,
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A reset without its whole code.
    #[error("a Reset record of {len} bytes; it begins with a code of 4 bytes")]
    ShortReset {
        /// Bytes announced.
        len: usize,
    },
    /// Something followed the end of its direction.
    #[error("{kind:?} came after the {end:?} of its direction")]
    AfterEnd {
        /// What came.
        kind: RecordKind,
        /// What had ended the direction.
        end: RecordKind,
    },
    /// The payload of an `End` or `Head` is not the JSON it has to be.
    #[error("the payload of the {kind:?} record can't be used: {reason}")]
    Json {
        /// What it is.
        kind: RecordKind,
        /// What is wrong and where, made safe to print.
        reason: String,
    },
}

impl RecordError {
    /// What to tell the peer.
    pub fn code(&self) -> Code {
        match self {
            Self::Compressed { .. } | Self::NeverCompressed { .. } | Self::Lz4 { .. } => Code::Compression,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::UnknownKind { .. }
            | Self::ShortReset { .. }
            | Self::AfterEnd { .. }
            | Self::Json { .. } => Code::BadFrame,
        }
    }
}

fn read_end(payload: &[u8]) -> Result<Option<EndStatus>, RecordError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let status = serde_json::from_slice(payload).map_err(|error| json_error(RecordKind::End, &error))?;
    Ok(Some(status))
}

fn read_reset(payload: &[u8]) -> Result<Record, RecordError> {
    let (code, text) = payload.split_first_chunk().ok_or(RecordError::ShortReset { len: payload.len() })?;
    // The code decides; a garbled text must not hide it.
    let text = String::from_utf8_lossy(text).into_owned();
    Ok(Record::Reset { code: u32::from_be_bytes(*code), text })
}

fn json_error(kind: RecordKind, error: &serde_json::Error) -> RecordError {
    RecordError::Json { kind, reason: sanitize(&error.to_string(), JSON_REASON_MAX) }
}

/// The status as JSON, its message shortened until it fits.
fn end_payload(status: &EndStatus) -> Vec<u8> {
    #[derive(Serialize)]
    struct Shortened<'a> {
        code: Code,
        message: &'a str,
    }
    let mut message = cut(&status.message, limits::END_TEXT_MAX);
    loop {
        let payload = serde_json::to_vec(&Shortened { code: status.code, message })
            .expect("a code and a string can be written as JSON");
        // Each byte of the message takes at least one byte of JSON, so this many fewer are enough.
        let excess = payload.len().saturating_sub(limits::END_TEXT_MAX);
        if excess == 0 {
            return payload;
        }
        message = cut(message, message.len().saturating_sub(excess));
    }
}

fn with_header(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(RECORD_HEADER_LEN + payload.len());
    record.extend_from_slice(&record_header(kind, payload.len()));
    record.extend_from_slice(payload);
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(delivery: Delivery, bytes: &[u8]) -> Result<Vec<Record>, RecordError> {
        let mut decoder = RecordDecoder::new(delivery);
        decoder.push(Bytes::copy_from_slice(bytes));
        let mut records = Vec::new();
        while let Some(record) = decoder.next()? {
            records.push(record);
        }
        Ok(records)
    }

    fn error(bytes: &[u8]) -> RecordError {
        records(Delivery::Streamed, bytes).unwrap_err()
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(record_header(RecordKind::Data, 0x01_0203 & 0xffff), [0, 0, 2, 3]);
        assert_eq!(record_header(RecordKind::Item, MAX_RECORD_PAYLOAD), [4, 0, 0xff, 0xfc]);
        assert_eq!(encode_end(None), [1, 0, 0, 0]);
        let status = EndStatus { code: Code::Timeout, message: "late".into() };
        assert_eq!(encode_end(Some(&status)), b"\x01\x00\x00\x23{\"code\":\"timeout\",\"message\":\"late\"}");
        assert_eq!(encode_reset(Code::Reset, "gone"), b"\x02\x00\x00\x08\x00\x00\x00\x05gone");
        assert_eq!(encode_head(&serde_json::json!({})).unwrap(), b"\x03\x00\x00\x02{}");
    }

    #[test]
    fn numbers_and_kinds_belong_together() {
        for number in 0..=u8::MAX {
            assert_eq!(
                RecordKind::from_number(number).map(RecordKind::number),
                (number < 5).then_some(number)
            );
        }
    }

    #[test]
    fn pieces_of_an_item_are_data_and_its_last_piece_is_the_item() {
        let mut decoder = RecordDecoder::new(Delivery::Streamed);
        decoder.push(Bytes::from_static(b"\x04\x00\x00\x04ab"));
        assert_eq!(decoder.next(), Ok(Some(Record::Data(Bytes::from_static(b"ab")))));
        assert_eq!(decoder.next(), Ok(None));
        assert!(!decoder.is_between_records());
        decoder.push(Bytes::from_static(b"cd\x04\x00\x00\x00\x01"));
        assert_eq!(decoder.next(), Ok(Some(Record::Item(Bytes::from_static(b"cd")))));
        assert_eq!(decoder.next(), Ok(Some(Record::Item(Bytes::new()))));
        assert_eq!((decoder.next(), decoder.buffered()), (Ok(None), 1));
        assert!(!decoder.is_between_records());
        decoder.push(Bytes::from_static(b"\x00\x00\x00"));
        assert_eq!(decoder.next(), Ok(Some(Record::End(None))));
        assert!(decoder.is_between_records());
    }

    #[test]
    fn empty_data_is_a_datagram_and_nothing_in_a_stream() {
        let bytes = [0, 0, 0, 0, 0, 0, 0, 1, b'x'];
        let data = |bytes: &'static [u8]| Record::Data(Bytes::from_static(bytes));
        assert_eq!(records(Delivery::Streamed, &bytes).unwrap(), [data(b"x")]);
        assert_eq!(records(Delivery::Whole, &bytes).unwrap(), [data(b""), data(b"x")]);
    }

    #[test]
    fn nothing_but_a_reset_follows_an_end_and_nothing_a_reset() {
        let reset = encode_reset(Code::Cancelled, "");
        let ended_then_reset = [&encode_end(None)[..], &reset].concat();
        assert_eq!(records(Delivery::Streamed, &ended_then_reset).unwrap().len(), 2);
        for (first, end) in [(encode_end(None), RecordKind::End), (reset, RecordKind::Reset)] {
            for number in 0..5 {
                let Some(kind) = RecordKind::from_number(number) else { continue };
                if (end, kind) == (RecordKind::End, RecordKind::Reset) {
                    continue;
                }
                assert_eq!(
                    error(&[&first[..], &[number, 0, 0, 4]].concat()),
                    RecordError::AfterEnd { kind, end }
                );
            }
        }
    }

    #[test]
    fn the_length_is_judged_before_the_payload_comes() {
        for kind in [RecordKind::Data, RecordKind::End, RecordKind::Reset, RecordKind::Head, RecordKind::Item]
        {
            let limit = kind.limit();
            let mut header = record_header(kind, limit);
            assert_eq!(records(Delivery::Whole, &header), Ok(vec![]));
            header[1..].copy_from_slice(&(limit + 1).to_be_bytes()[5..]);
            let error = error(&header);
            assert_eq!(error, RecordError::TooLarge { kind, len: limit + 1, limit });
            assert_eq!(error.code(), Code::TooLarge);
        }
    }

    #[test]
    fn records_that_are_none() {
        assert_eq!(error(&[5, 0, 0, 0]), RecordError::UnknownKind { number: 5 });
        assert_eq!(error(&[0x85, 0, 0, 0]).code(), Code::BadFrame);
        assert_eq!(error(&[0x80, 0, 0, 9]), RecordError::Compressed { kind: RecordKind::Data });
        assert_eq!(error(&[0x80, 0, 0, 9]).code(), Code::Compression);
        assert_eq!(error(&[2, 0, 0, 3]), RecordError::ShortReset { len: 3 });
        for end in [&b"\x01\x00\x00\x02{}"[..], b"\x01\x00\x00\x01x", b"\x01\x00\x00\x01\xff"] {
            assert!(matches!(error(end), RecordError::Json { kind: RecordKind::End, .. }));
        }
    }

    #[test]
    fn compressed_records_are_read_where_they_were_announced_and_are_whole() {
        let text = b"again and again and again and again and again and again";
        let packed = encode_compressed(RecordKind::Item, text).unwrap();
        assert!(packed.len() < RECORD_HEADER_LEN + text.len() && packed[0] == 0x84);
        assert_eq!(error(&packed), RecordError::Compressed { kind: RecordKind::Item });

        let mut decoder = RecordDecoder::new(Delivery::Streamed).with_lz4();
        decoder.push(Bytes::copy_from_slice(&packed[..packed.len() - 1]));
        assert_eq!(decoder.next(), Ok(None), "half of a block is nothing");
        assert!(!decoder.is_between_records() && decoder.buffered() == packed.len() - 1 - RECORD_HEADER_LEN);
        decoder.push(Bytes::copy_from_slice(&packed[packed.len() - 1..]));
        decoder.push(encode_end(None).into());
        assert_eq!(decoder.next(), Ok(Some(Record::Item(Bytes::from_static(text)))));
        let as_it_came = decoder.take_compressed().unwrap();
        assert_eq!(encode_as_it_came(RecordKind::Item, &as_it_came), packed);
        assert_eq!(decoder.next(), Ok(Some(Record::End(None))));
        assert_eq!(decoder.take_compressed(), None);
    }

    #[test]
    fn heads_and_ends_are_never_compressed() {
        for kind in [RecordKind::Head, RecordKind::End, RecordKind::Reset] {
            assert_eq!(encode_compressed(kind, &[b'x'; 1000]), None);
            let mut decoder = RecordDecoder::new(Delivery::Streamed).with_lz4();
            decoder.push(Bytes::copy_from_slice(&[kind.number() | LZ4, 0, 0, 9]));
            let error = decoder.next().unwrap_err();
            assert_eq!((error.code(), &error), (Code::Compression, &RecordError::NeverCompressed { kind }));
        }
    }

    #[test]
    fn nothing_is_handed_out_behind_a_payload_that_is_lost() {
        let mut decoder = RecordDecoder::new(Delivery::Streamed).with_lz4();
        decoder.push(Bytes::from_static(b"\x80\0\0\x08\xff\xff\xff\xff\x1fx\x01\0"));
        decoder.push(Bytes::from_static(b"\0\0\0\x01y"));
        for _ in 0..2 {
            let error = decoder.next().unwrap_err();
            assert_eq!(error.code(), Code::Compression, "{error}");
        }
    }

    #[test]
    fn a_garbled_text_does_not_hide_the_code() {
        let reset = records(Delivery::Streamed, b"\x02\x00\x00\x05\x00\x00\xff\xff\xfe").unwrap();
        assert_eq!(reset, [Record::Reset { code: 0xffff, text: "\u{fffd}".into() }]);
    }

    #[test]
    fn a_code_of_a_later_version_ends_a_call_all_the_same() {
        let payload = br#"{"code":"moon_phase","message":"m"}"#;
        let record = with_header(RecordKind::End, payload);
        let status = EndStatus { code: Code::Internal, message: "m".into() };
        assert_eq!(records(Delivery::Streamed, &record).unwrap(), [Record::End(Some(status))]);
    }
}
