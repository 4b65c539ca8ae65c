//! Certificates, which anybody may show, and requests for them, which anybody with a token may send: both are read before
//! their holder is believed, and what is in them is said again in refusals and lists.

use reachback_link::tls::{CertificateDer, CertificateNames, pin};
use reachback_wire::{Code, Role, Secret, text::sanitize};

use super::{Verdict, situation, token::BUREAU};

/// The first byte chooses a certificate or a request, and whether one byte of it is changed, which the next two choose.
///
/// # Panics
/// If a promise is broken.
pub fn check(input: &[u8]) -> Verdict {
    let (selector, [with, at], bytes) = situation(input);
    let mut bytes = bytes.to_vec();
    let changed = selector & 2 == 2 && !bytes.is_empty();
    if changed {
        let at = at % bytes.len();
        // Never by nothing.
        bytes[at] ^= 1 << (with % 8);
    }
    if selector % 2 == 0 { certificate(bytes) } else { request(&bytes, changed) }
}

fn certificate(bytes: Vec<u8>) -> Verdict {
    let certificate = CertificateDer::from(bytes);
    match CertificateNames::of(&certificate) {
        Ok(names) => {
            let serial = &names.serial;
            assert!(
                serial.len() % 2 == 0 && serial.bytes().all(|digit| b"0123456789abcdef".contains(&digit)),
                "{serial:?}"
            );
            assert_eq!(pin(&certificate).expect("it was read").0, names.spki);
            // Its chain is judged by TLS; what is asked here is whether it names who shows it.
            match BUREAU.security.admit_certificate(&names, Role::Node, &"edge-7".parse().expect("an id")) {
                Ok(who) => {
                    let dns = names.dns.iter().any(|name| name.eq_ignore_ascii_case("edge-7"));
                    assert!(dns || names.uris.iter().any(|uri| uri == "reachback:node/edge-7"), "{names:?}");
                    assert!(!who.admin && who.rights.is_empty(), "{who:?}");
                }
                Err(refusal) => told(&refusal.to_string()),
            }
            Verdict::Fine
        }
        Err(error) => {
            told(&error.to_string());
            Verdict::Refused(Code::BadFrame)
        }
    }
}

/// A request that was changed anywhere is not signed by its key any more.
fn request(bytes: &[u8], changed: bool) -> Verdict {
    let [.., register] = &BUREAU.tokens;
    let id = "edge-7".parse().expect("an id");
    let outcome = BUREAU.security.enrol(&Secret::new(register.clone()), bytes, Role::Node, &id, "memory");
    let refusal = outcome.expect_err("nothing can be written here");
    told(&refusal.to_string());
    if refusal.code == Code::Internal {
        // The database has no directory any more: what gets as far as being written was right.
        assert!(!changed, "a certificate for a request that nobody signed");
        return Verdict::Fine;
    }
    Verdict::Refused(refusal.code)
}

fn told(sentence: &str) {
    assert_eq!(sanitize(sentence, usize::MAX), sentence, "a refusal forges what it is printed on");
    assert!(sentence.len() < 1500, "a refusal repeats too much: {sentence}");
}
