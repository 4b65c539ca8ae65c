//! Records: cuts and the way of handing out don't matter, little is held, ends are final, and what is compressed holds
//! what it claims or nothing.

use bytes::Bytes;
use reachback_wire::{
    Code, Delivery, Record, RecordDecoder, RecordError, RecordKind,
    limits::{END_TEXT_MAX, HEAD_MAX, MAX_RECORD_PAYLOAD},
    record::{RECORD_HEADER_LEN, encode_compressed, encode_end, encode_reset, record_header},
    text::sanitize,
};

use super::{Verdict, pieces, situation};

/// The first byte chooses whether compression was announced.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, cuts, bytes) = situation(input);
    let lz4 = selector % 2 == 1;
    let read = |delivery, cuts| read(delivery, lz4, bytes, cuts);
    let whole = read(Delivery::Whole, [usize::MAX; 2]);
    assert_eq!(read(Delivery::Whole, cuts), whole, "a cut changed the records");

    let streamed = read(Delivery::Streamed, [usize::MAX; 2]).joined();
    assert_eq!(read(Delivery::Streamed, cuts).joined(), streamed, "a cut changed the bytes");
    assert_eq!(streamed.error, whole.error);
    assert_eq!(streamed.at_boundary, whole.at_boundary);
    if whole.at_boundary {
        assert_eq!(streamed.records, whole.clone().joined().records, "two ways of handing out differ");
    }

    ends_are_final(&whole.records);
    for record in &whole.records {
        say_again(record);
    }
    match &whole.error {
        Some(error) => {
            let text = error.to_string();
            assert_eq!(sanitize(&text, usize::MAX), text, "an error forges what it is printed on");
            assert!(text.len() <= END_TEXT_MAX, "an error is too long to be sent: {text}");
            Verdict::Refused(error.code())
        }
        None if whole.at_boundary && !whole.records.is_empty() => Verdict::Fine,
        None => Verdict::Incomplete,
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Reading {
    records: Vec<Record>,
    error: Option<RecordError>,
    at_boundary: bool,
}

fn read(delivery: Delivery, lz4: bool, bytes: &[u8], cuts: [usize; 2]) -> Reading {
    let mut decoder = RecordDecoder::new(delivery);
    if lz4 {
        decoder = decoder.with_lz4();
    }
    let mut records = Vec::new();
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(record)) => {
                    if let Record::Data(payload) | Record::Item(payload) = &record {
                        assert!(payload.len() <= MAX_RECORD_PAYLOAD, "a payload of {} bytes", payload.len());
                    }
                    records.push(record);
                }
                Ok(None) => break,
                Err(error) => return Reading { records, error: Some(error), at_boundary: false },
            }
        }
        // What must come in one piece waits for its last byte; the rest is handed out at once.
        let most = match delivery {
            Delivery::Streamed if !lz4 => HEAD_MAX,
            Delivery::Streamed | Delivery::Whole => MAX_RECORD_PAYLOAD,
        };
        assert!(decoder.buffered() < most, "holds {} bytes", decoder.buffered());
    }
    Reading { records, error: None, at_boundary: decoder.is_between_records() }
}

impl Reading {
    /// The same without what cuts may change: neighbouring pieces are one, empty ones don't show.
    fn joined(mut self) -> Self {
        let mut joined: Vec<Record> = Vec::new();
        for record in self.records {
            match (joined.last_mut(), record) {
                (_, Record::Data(new)) if new.is_empty() => {}
                (Some(Record::Data(old)), Record::Data(new)) => *old = concat(old, &new),
                (Some(last @ Record::Data(_)), Record::Item(new)) => {
                    let Record::Data(old) = &*last else { unreachable!("just matched") };
                    *last = Record::Item(concat(old, &new));
                }
                (_, record) => joined.push(record),
            }
        }
        self.records = joined;
        self
    }
}

fn concat(first: &Bytes, second: &Bytes) -> Bytes {
    [&first[..], &second[..]].concat().into()
}

fn ends_are_final(records: &[Record]) {
    let end = |record: &Record| matches!(record, Record::End(_));
    let reset = |record: &Record| matches!(record, Record::Reset { .. });
    if let Some(first) = records.iter().position(reset) {
        assert_eq!(first + 1, records.len(), "something after a reset: {records:?}");
    }
    if let Some(first) = records.iter().position(end) {
        assert!(records[first + 1..].iter().all(reset), "something after an end: {records:?}");
    }
}

/// Writes a record and reads it again.
fn say_again(record: &Record) {
    let with_header = |kind, payload: &Bytes| [&record_header(kind, payload.len())[..], payload].concat();
    let bytes = match record {
        Record::Data(payload) => with_header(RecordKind::Data, payload),
        Record::Item(payload) => with_header(RecordKind::Item, payload),
        Record::Head(payload) => with_header(RecordKind::Head, payload),
        Record::End(status) => encode_end(status.as_ref()),
        Record::Reset { code, text } => match Code::from_number(*code) {
            Some(code) => encode_reset(code, text),
            // A code of a later version can be read, not sent.
            None => return,
        },
    };
    if let Record::Data(payload) | Record::Item(payload) = record {
        squeeze_again(record, payload);
    }
    let reading = read(Delivery::Whole, false, &bytes, [usize::MAX; 2]);
    let [read] = &reading.records[..] else { panic!("{record:?} became {reading:?}") };
    match (record, read) {
        // Texts are cut to fit when they are written.
        (Record::End(Some(status)), Record::End(Some(again))) => {
            assert_eq!(again.code, status.code);
            assert!(status.message.starts_with(&again.message), "{status:?} became {again:?}");
        }
        (Record::Reset { code, text }, Record::Reset { code: same, text: again }) => {
            assert_eq!(same, code);
            assert!(text.starts_with(again.as_str()), "{text:?} became {again:?}");
        }
        (record, read) => assert_eq!(read, record),
    }
}

/// Writes data compressed, if that makes it smaller, and reads it again.
fn squeeze_again(record: &Record, payload: &Bytes) {
    let kind = if matches!(record, Record::Item(_)) { RecordKind::Item } else { RecordKind::Data };
    if let Some(compressed) = encode_compressed(kind, payload) {
        assert!(compressed.len() < RECORD_HEADER_LEN + payload.len(), "compressed and not smaller");
        let reading = read(Delivery::Whole, true, &compressed, [usize::MAX; 2]);
        assert_eq!(reading.records.first(), Some(record));
    }
}
