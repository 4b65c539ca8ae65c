//! Sentences for people, cut where they are written.
//!
//! A reason can quote what a service or an operating system said, or list a thousand names. The frame it travels in
//! has a limit, and a refusal that breaks it would end as a protocol error instead of telling anything.

use serde::Serializer;

use crate::limits;

/// For `#[serde(serialize_with)]`: at most [`limits::END_TEXT_MAX`] bytes.
pub(crate) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(text, limits::END_TEXT_MAX))
}

/// At most `max` bytes of `text`, without half a character.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        Bye, Code, ControlMessage, Frame, FrameDecoder, FrameType, Refusal, Replaced, Stage, frame::encode,
    };

    fn read(stage: Stage, bytes: Vec<u8>) -> Frame {
        let mut decoder = FrameDecoder::new(stage);
        decoder.push(bytes.into());
        decoder.next().unwrap().unwrap()
    }

    #[test]
    fn a_reason_of_any_length_fits_its_frame() {
        for text in ["\0", "\"", "a", "é", "🦀"].map(|character| character.repeat(300_000)) {
            let refusal =
                Refusal { retry_after_ms: Some(u64::MAX), ..Refusal::new(Code::ServiceUnreachable, &*text) };
            let bye = ControlMessage::Bye(Bye { reason: text.clone() });
            let replaced = ControlMessage::Replaced(Replaced { message: text.clone() });
            for frame in [
                read(Stage::HelloReply, encode(FrameType::Denied, &refusal)),
                read(Stage::OpenReply, encode(FrameType::Refused, &refusal)),
                read(Stage::Control, bye.encode()),
                read(Stage::Control, replaced.encode()),
            ] {
                let payload: Value = frame.parse().unwrap();
                let sent = payload.get("message").or(payload.get("reason")).unwrap().as_str().unwrap();
                assert!(text.starts_with(sent) && sent.len() > limits::END_TEXT_MAX - 4, "{}", sent.len());
            }
        }
    }

    #[test]
    fn cuts_between_characters() {
        assert_eq!(["aé", "aé", "a", ""], [9, 3, 2, 0].map(|max| cut("aé", max)));
    }
}
