//! The security core by itself: who is let in, with what, until when, and what each refusal says.

#![allow(clippy::unwrap_used, reason = "a test that panics says why")]

mod certificates;
mod enrolment;
mod keys;
mod persistence;
mod support;
mod tokens;
