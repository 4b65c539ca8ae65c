//! What a visitor says before its service is known to be there: sent at once, kept until the answer, never twice.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod common;

use common::{End, empty, pair, soon, to, until};
use reachback_link::{Early, OpenError, Transport, splice};
use reachback_wire::{Code, Record, Refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    join,
};

/// Waits for an open and for something behind it, then answers.
async fn answer_late(end: &mut End, answer: Result<(), Refusal>) -> Option<reachback_link::Substream> {
    let mut inbound = soon("an open", end.incoming.next()).await.unwrap();
    inbound.open().await.unwrap();
    let budget = end.budget.clone();
    let held = until("early bytes", move || budget.used(), |used| *used > 0);
    let work = async {
        held.await;
        answer
    };
    inbound.answer(work).await.ok().map(|(substream, ())| substream)
}

#[tokio::test]
async fn what_a_visitor_says_is_there_before_the_answer_and_once() {
    let (near, mut far) = pair();
    let (mut local, mut visitor) = Transport::memory_pair(1024);
    visitor.write_all(b"first").await.unwrap();
    let mut early = Early::of(&mut local);
    let (opened, accepted) =
        join!(near.session.open_early(to("s"), &mut early), answer_late(&mut far, Ok(())));
    assert_eq!(early.len(), 5);
    let (substream, mut accepted) = (opened.unwrap(), accepted.unwrap());
    let copying = splice(substream, local);
    let talking = async {
        visitor.write_all(b" second").await.unwrap();
        let mut got = Vec::new();
        while got.len() < 12 {
            let Record::Data(bytes) = soon("the bytes", accepted.next()).await.unwrap() else { panic!() };
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, b"first second");
        accepted.send(reachback_wire::RecordKind::Data, b"answer").await.unwrap();
        accepted.finish(None).await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut answer = Vec::new();
        visitor.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(soon("the end", accepted.next()).await.unwrap(), Record::End(None));
    };
    let (copied, ()) = join!(copying, talking);
    copied.end.unwrap();
    drop(accepted);
    empty(&near).await;
    empty(&far).await;
}

#[tokio::test]
async fn what_was_refused_is_offered_elsewhere_with_what_came_since() {
    let ((first, mut first_far), (second, mut second_far)) = (pair(), pair());
    let (mut local, mut visitor) = Transport::memory_pair(1024);
    visitor.write_all(b"one ").await.unwrap();
    let mut early = Early::of(&mut local);
    let draining = Err(Refusal::new(Code::Draining, "elsewhere"));
    let (refused, _) =
        join!(first.session.open_early(to("s"), &mut early), answer_late(&mut first_far, draining));
    assert!(matches!(refused, Err(OpenError::Refused(refusal)) if refusal.code == Code::Draining));
    visitor.write_all(b"two ").await.unwrap();
    let (opened, accepted) =
        join!(second.session.open_early(to("s"), &mut early), answer_late(&mut second_far, Ok(())));
    visitor.write_all(b"three").await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut accepted = accepted.unwrap();
    let reading = async {
        let mut got = Vec::new();
        loop {
            match soon("the bytes", accepted.next()).await.unwrap() {
                Record::Data(bytes) => got.extend_from_slice(&bytes),
                Record::End(None) => break,
                other => panic!("{other:?}"),
            }
        }
        accepted.finish(None).await.unwrap();
        got
    };
    let (copied, got) = join!(splice(opened.unwrap(), local), reading);
    copied.end.unwrap();
    assert_eq!(got, b"one two three");
}

#[tokio::test]
async fn more_than_is_sent_early_waits_for_the_answer() {
    let (near, mut far) = pair();
    let (mut local, mut visitor) = Transport::memory_pair(256 * 1024);
    let much: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    visitor.write_all(&much).await.unwrap();
    visitor.shutdown().await.unwrap();
    let mut early = Early::of(&mut local);
    let (opened, accepted) =
        join!(near.session.open_early(to("s"), &mut early), answer_late(&mut far, Ok(())));
    assert!((1..=reachback_wire::limits::EARLY_READ).contains(&early.len()), "{}", early.len());
    let mut accepted = accepted.unwrap();
    let reading = async {
        let mut got = Vec::new();
        while let Record::Data(bytes) = soon("the bytes", accepted.next()).await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        accepted.finish(None).await.unwrap();
        got
    };
    let (copied, got) = join!(splice(opened.unwrap(), local), reading);
    copied.end.unwrap();
    assert!(got == much);
}
