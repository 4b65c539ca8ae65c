//! The security core by itself: who is let in, with what, until when, and what each refusal says.

#![allow(missing_docs, reason = "a test")]

mod certificates;
mod enrolment;
mod keys;
mod persistence;
mod support;
mod tokens;
