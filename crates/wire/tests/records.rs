//! Records survive any cut of the byte stream, however they are handed out.

mod common;

use bytes::Bytes;
use common::{code, cuts, end_status, pieces, text};
use proptest::{collection::vec, option, prelude::*};
use reachback_wire::{
    Code, Delivery, EndStatus, Record, RecordDecoder, RecordError, RecordKind,
    limits::{END_TEXT_MAX, HEAD_MAX, MAX_RECORD_PAYLOAD},
    record::{RECORD_HEADER_LEN, encode_compressed, encode_end, encode_head, encode_reset, record_header},
};
use serde_json::json;

fn decode(delivery: Delivery, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Record>, RecordError> {
    decode_by(RecordDecoder::new(delivery), delivery, HEAD_MAX, bytes, cuts)
}

/// As [`decode`], where records may be compressed.
fn decode_lz4(delivery: Delivery, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Record>, RecordError> {
    decode_by(RecordDecoder::new(delivery).with_lz4(), delivery, MAX_RECORD_PAYLOAD, bytes, cuts)
}

fn decode_by(
    mut decoder: RecordDecoder,
    delivery: Delivery,
    most: usize,
    bytes: &[u8],
    cuts: &[usize],
) -> Result<Vec<Record>, RecordError> {
    let mut records = Vec::new();
    for piece in pieces(bytes, cuts) {
        decoder.push(piece);
        while let Some(record) = decoder.next()? {
            records.push(record);
        }
        let most = match delivery {
            Delivery::Streamed => most,
            Delivery::Whole => MAX_RECORD_PAYLOAD,
        };
        assert!(decoder.buffered() < most, "keeps {} bytes", decoder.buffered());
    }
    Ok(records)
}

fn encode(record: &Record) -> Vec<u8> {
    let with_header = |kind, payload: &Bytes| {
        let mut record = record_header(kind, payload.len()).to_vec();
        record.extend_from_slice(payload);
        record
    };
    match record {
        Record::Data(payload) => with_header(RecordKind::Data, payload),
        Record::Item(payload) => with_header(RecordKind::Item, payload),
        Record::Head(payload) => with_header(RecordKind::Head, payload),
        Record::End(status) => encode_end(status.as_ref()),
        Record::Reset { code, text } => {
            encode_reset(Code::from_number(*code).expect("made from a code"), text)
        }
    }
}

/// The same with what may be and gains by it compressed.
fn encode_lz4(record: &Record) -> Vec<u8> {
    let compressed = match record {
        Record::Data(payload) => encode_compressed(RecordKind::Data, payload),
        Record::Item(payload) => encode_compressed(RecordKind::Item, payload),
        Record::Head(_) | Record::End(_) | Record::Reset { .. } => None,
    };
    compressed.map_or_else(|| encode(record), |compressed| compressed.to_vec())
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..300),
        1 => (any::<u8>(), 60_000..=MAX_RECORD_PAYLOAD).prop_map(|(byte, len)| vec![byte; len]),
    ]
    .prop_map(Bytes::from)
}

/// Data of any kind, then at most one End, then at most one Reset.
fn direction() -> impl Strategy<Value = Vec<Record>> {
    let middle = prop_oneof![
        3 => payload().prop_map(Record::Data),
        1 => payload().prop_map(Record::Item),
        1 => vec(any::<u8>(), 0..300).prop_map(|head| Record::Head(head.into())),
    ];
    let reset = (code(), text()).prop_map(|(code, text)| Record::Reset { code: code.number(), text });
    (vec(middle, 0..6), option::of(option::of(end_status())), option::of(reset)).prop_map(
        |(mut records, end, reset)| {
            records.extend(end.map(Record::End));
            records.extend(reset);
            records
        },
    )
}

/// What `Streamed` promises: the same bytes with the same marks, whatever the pieces.
fn joined(records: Vec<Record>) -> Vec<Record> {
    let mut joined: Vec<Record> = Vec::new();
    for record in records {
        match (joined.last_mut(), record) {
            (_, Record::Data(new)) if new.is_empty() => {}
            (Some(Record::Data(old)), Record::Data(new)) => *old = [&old[..], &new[..]].concat().into(),
            (Some(last @ Record::Data(_)), Record::Item(new)) => {
                let Record::Data(old) = &*last else { unreachable!() };
                *last = Record::Item([&old[..], &new[..]].concat().into());
            }
            (_, record) => joined.push(record),
        }
    }
    joined
}

proptest! {
    #[test]
    fn whole_records_round_trip(records in direction(), cuts in cuts()) {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        prop_assert_eq!(decode(Delivery::Whole, &bytes, &cuts).unwrap(), records);
    }

    #[test]
    fn streamed_records_round_trip(records in direction(), cuts in cuts()) {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        let read = decode(Delivery::Streamed, &bytes, &cuts).unwrap();
        prop_assert!(!read.contains(&Record::Data(Bytes::new())));
        prop_assert_eq!(joined(read), joined(records));
    }

    #[test]
    fn compressed_records_round_trip(records in direction(), cuts in cuts()) {
        let bytes: Vec<u8> = records.iter().flat_map(encode_lz4).collect();
        prop_assert_eq!(decode_lz4(Delivery::Whole, &bytes, &cuts).unwrap(), records.clone());
        prop_assert_eq!(joined(decode_lz4(Delivery::Streamed, &bytes, &cuts).unwrap()), joined(records));
    }

    /// A damaged block is refused or holds as many bytes as it claims, and never more than a record.
    #[test]
    fn damaged_blocks_are_bounded(
        payload in payload(),
        damage in vec((any::<proptest::sample::Index>(), 0..8_u32), 1..4),
    ) {
        let Some(compressed) = encode_compressed(RecordKind::Data, &payload) else { return Ok(()) };
        let mut bytes = compressed.to_vec();
        for (at, bit) in damage {
            let at = RECORD_HEADER_LEN + at.index(bytes.len() - RECORD_HEADER_LEN);
            bytes[at] ^= 1 << bit;
        }
        match decode_lz4(Delivery::Whole, &bytes, &[]) {
            Ok(records) => {
                let claimed = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
                let [Record::Data(plain)] = &records[..] else { panic!("{records:?}") };
                prop_assert_eq!(plain.len(), claimed as usize);
                prop_assert!(plain.len() <= MAX_RECORD_PAYLOAD);
            }
            Err(error) => prop_assert_eq!(error.code(), Code::Compression, "{}", error),
        }
    }

    /// Whatever comes, in whatever pieces: the same outcome and no panic.
    #[test]
    fn hostile_bytes_are_bounded_and_cuts_do_not_matter(
        parts in vec(prop_oneof![
            vec(any::<u8>(), 0..12),
            (0..6_u8, 0..20_u8).prop_map(|(number, len)| vec![number, 0, 0, len]),
            (any::<u8>(), any::<[u8; 3]>()).prop_map(|(number, [a, b, c])| vec![number, a, b, c]),
        ], 0..8),
        cuts in cuts(),
    ) {
        let bytes = parts.concat();
        let whole = decode(Delivery::Whole, &bytes, &[]);
        prop_assert_eq!(decode(Delivery::Whole, &bytes, &cuts), whole);
        let streamed = decode(Delivery::Streamed, &bytes, &[]).map(joined);
        prop_assert_eq!(decode(Delivery::Streamed, &bytes, &cuts).map(joined), streamed);
    }

    /// The longest texts still make records that every reader takes.
    #[test]
    fn long_texts_are_cut_to_fit(code in code(), text in "[a\\x00\"é…🦀]{0,3000}") {
        let status = EndStatus { code, message: text.clone() };
        let end = decode(Delivery::Whole, &encode_end(Some(&status)), &[]).unwrap();
        let [Record::End(Some(read))] = &end[..] else { panic!("{end:?}") };
        prop_assert_eq!(read.code, code);
        prop_assert!(text.starts_with(&read.message));

        let reset = decode(Delivery::Whole, &encode_reset(code, &text), &[]).unwrap();
        let [Record::Reset { code: number, text: read }] = &reset[..] else { panic!("{reset:?}") };
        prop_assert_eq!(*number, code.number());
        prop_assert!(text.starts_with(read.as_str()));
        prop_assert!(text.len() > END_TEXT_MAX || *read == text);
    }
}

#[test]
fn payloads_are_handed_out_without_a_copy() {
    let mut bytes = record_header(RecordKind::Data, 5).to_vec();
    bytes.extend_from_slice(b"hello");
    let bytes = Bytes::from(bytes);
    for delivery in [Delivery::Streamed, Delivery::Whole] {
        let mut decoder = RecordDecoder::new(delivery);
        decoder.push(bytes.clone());
        let Some(Record::Data(payload)) = decoder.next().unwrap() else { panic!("no data") };
        assert_eq!(payload.as_ptr(), bytes[RECORD_HEADER_LEN..].as_ptr());
    }
}

#[test]
fn a_head_that_is_too_long_is_not_sent() {
    let error = encode_head(&json!({ "x": "y".repeat(HEAD_MAX) })).unwrap_err();
    assert!(matches!(error, RecordError::TooLarge { kind: RecordKind::Head, .. }), "{error}");
    let head = encode_head(&json!({ "status": 200 })).unwrap();
    let records = decode(Delivery::Streamed, &head, &[1]).unwrap();
    assert_eq!(records, [Record::Head(Bytes::from_static(br#"{"status":200}"#))]);
}
