//! The service's half of a call on its way to the caller: head, data or items, end, all of it counted.
//!
//! While the service thinks, the caller may give up; whoever waits for the service waits through
//! [`Answer::unless_gone`], so that giving up ends the waiting, and with it the connection to the service.

use std::{collections::BTreeMap, future::poll_fn, pin::pin, task::Poll};

use reachback_link::Substream;
use reachback_wire::{
    Code, RecordKind,
    limits::{HEAD_MAX, MAX_RECORD_PAYLOAD},
};
use serde::Serialize;

use super::Trouble;
use crate::stats::{Stats, add};

/// An answer under way. The request has been read to its end.
pub(super) struct Answer<'a> {
    substream: &'a mut Substream,
    stats: &'a Stats,
    sent: usize,
    most: usize,
    headed: bool,
}

#[derive(Serialize)]
struct Head<'a> {
    status: u16,
    headers: &'a BTreeMap<String, String>,
}

impl<'a> Answer<'a> {
    /// An answer that may have `most` bytes.
    pub(super) fn new(substream: &'a mut Substream, stats: &'a Stats, most: usize) -> Self {
        Self { substream, stats, sent: 0, most, headed: false }
    }

    /// How many bytes it may have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// What a caller is told whose answer has more.
    pub(super) fn too_large(&self) -> Trouble {
        let most = self.most;
        let text =
            format!("the answer of the service is larger than {most} bytes; use a stream for bulk data");
        Trouble::Failed(Code::TooLarge, text)
    }

    /// Waits for `work`, or for the caller to give up.
    pub(super) async fn unless_gone<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Trouble> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.substream.poll_gone(cx).map(|end| Err(Trouble::Gone(end))),
        })
        .await
    }

    /// Status and headers, before anything else.
    pub(super) async fn head(
        &mut self,
        status: u16,
        headers: &BTreeMap<String, String>,
    ) -> Result<(), Trouble> {
        let head = serde_json::to_vec(&Head { status, headers }).expect("numbers and strings are JSON");
        if head.len() > HEAD_MAX {
            let text = format!("the headers of the answer are larger than {HEAD_MAX} bytes");
            return Err(Trouble::Failed(Code::TooLarge, text));
        }
        self.headed = true;
        Ok(self.substream.send(RecordKind::Head, &head).await?)
    }

    /// The head of a service that has none of its own, unless it was sent already.
    pub(super) async fn json_head(&mut self) -> Result<(), Trouble> {
        self.own_head("application/json").await
    }

    /// The same for an answer that consists of items, so that whoever passes them on as bytes knows to part them.
    pub(super) async fn items_head(&mut self) -> Result<(), Trouble> {
        self.own_head("application/x-ndjson").await
    }

    async fn own_head(&mut self, content_type: &str) -> Result<(), Trouble> {
        if self.headed {
            return Ok(());
        }
        let headers = BTreeMap::from([("content-type".to_owned(), content_type.to_owned())]);
        self.head(200, &headers).await
    }

    /// A piece of the body.
    pub(super) async fn data(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.take_in(bytes.len())?;
        Ok(self.substream.send(RecordKind::Data, bytes).await?)
    }

    /// One JSON text of a streamed answer.
    pub(super) async fn item(&mut self, text: &[u8]) -> Result<(), Trouble> {
        self.take_in(text.len())?;
        let last = text.len().saturating_sub(1) / MAX_RECORD_PAYLOAD * MAX_RECORD_PAYLOAD;
        let (pieces, last) = text.split_at(last);
        if !pieces.is_empty() {
            self.substream.send(RecordKind::Data, pieces).await?;
        }
        Ok(self.substream.send(RecordKind::Item, last).await?)
    }

    /// The answer is complete.
    pub(super) async fn end(&mut self) -> Result<(), Trouble> {
        Ok(self.substream.finish(None).await?)
    }

    fn take_in(&mut self, bytes: usize) -> Result<(), Trouble> {
        self.sent += bytes;
        if self.sent > self.most {
            return Err(self.too_large());
        }
        add(&self.stats.bytes_from_services, bytes as u64);
        Ok(())
    }
}
