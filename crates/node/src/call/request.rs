//! The caller's half of a call: its head, and its body whole.
//!
//! The body is kept until it is complete, because a service must see all of a request or nothing of it, and because
//! small servers understand a length and not pieces. What all callers together may have kept here is bounded.

use std::{collections::BTreeMap, sync::Arc};

use reachback_link::Substream;
use reachback_wire::{Code, Record, text::sanitize};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Trouble;

/// Bodies take room in steps of this many bytes.
pub(super) const UNIT: usize = 1024;

/// What a caller asks for.
pub(super) struct Request {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// Given back when the body is.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// What stands in front of a request.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Head {
    /// For services that speak HTTP.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// Whether the caller wants what the service sends besides the answer.
    #[serde(default)]
    pub(super) stream: bool,
}

impl Request {
    /// Reads up to the caller's `End`, a body of at most `most` bytes.
    pub(super) async fn read(
        substream: &mut Substream,
        rooms: &Arc<Semaphore>,
        most: usize,
    ) -> Result<Self, Trouble> {
        let mut request = Self { head: Head::default(), body: Vec::new(), room: None };
        loop {
            match substream.next().await? {
                Record::Head(head) => {
                    request.head = serde_json::from_slice(&head).map_err(|error| {
                        let what = sanitize(&error.to_string(), 200);
                        Trouble::Failed(Code::BadFrame, format!("the head of the call can't be read: {what}"))
                    })?;
                }
                Record::Data(bytes) | Record::Item(bytes) => {
                    let length = request.body.len() + bytes.len();
                    if length > most {
                        let text =
                            format!("the request is larger than {most} bytes; use a stream for bulk data");
                        return Err(Trouble::Failed(Code::TooLarge, text));
                    }
                    make_room(rooms, &mut request.room, length)?;
                    request.body.extend_from_slice(&bytes);
                }
                Record::End(None) => return Ok(request),
                Record::End(Some(status)) => {
                    let text = sanitize(&status.message, 400);
                    return Err(Trouble::Failed(status.code, format!("the caller took it back: {text}")));
                }
                Record::Reset { .. } => return Err(Trouble::Gone(reachback_link::StreamEnd::Dropped)),
            }
        }
    }
}

/// Grows what a body may take to `length` bytes. Whoever gets no room is told at once: nothing reached the service, and
/// two that waited for each other's room would wait for ever.
fn make_room(
    rooms: &Arc<Semaphore>,
    room: &mut Option<OwnedSemaphorePermit>,
    length: usize,
) -> Result<(), Trouble> {
    let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let missing = length.div_ceil(UNIT).saturating_sub(held);
    if missing == 0 {
        return Ok(());
    }
    let more = rooms.clone().try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
    match (more, room.as_mut()) {
        (Ok(more), Some(room)) => room.merge(more),
        (Ok(more), None) => *room = Some(more),
        (Err(_), _) => {
            let text = "the node holds as many requests as it may; nothing was sent, try again";
            return Err(Trouble::Failed(Code::Saturated, text.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use reachback_wire::limits::CALL_BODY_MAX;

    use super::*;
    use crate::limits::CALL_BODIES;

    #[test]
    fn all_requests_together_have_a_bound() {
        let rooms = Arc::new(Semaphore::new(CALL_BODIES / UNIT));
        let mut held = Vec::new();
        for _ in 0..CALL_BODIES / CALL_BODY_MAX {
            let mut room = None;
            assert!(
                make_room(&rooms, &mut room, 1).is_ok()
                    && make_room(&rooms, &mut room, CALL_BODY_MAX).is_ok()
            );
            held.push(room);
        }
        assert!(matches!(make_room(&rooms, &mut None, 1), Err(Trouble::Failed(Code::Saturated, _))));
        held.pop();
        assert!(make_room(&rooms, &mut None, 1).is_ok());
    }

    #[test]
    fn a_head_may_say_nothing_and_more_than_is_known() {
        let head: Head = serde_json::from_str("{}").unwrap();
        assert!(head.headers.is_empty() && !head.stream);
        let head: Head = serde_json::from_str(r#"{"headers":{"X-A":"1"},"stream":true,"later":1}"#).unwrap();
        assert!(head.headers["X-A"] == "1" && head.stream);
    }
}
