//! Proving a shared secret without showing it.
//!
//! For labs: one secret in a file on every machine, and no authority. Both ends make an HMAC over who the dialer says it
//! is, a fresh number of each, and 32 bytes that only the two ends of this TLS connection know. So a proof is worthless
//! on another connection, for another name, a second time, and in the other direction. The acceptor proves first: a
//! dialer tells nothing to whoever merely answers.

use reachback_wire::{Hello, Mac, NodeId, Nonce, Role, Secret};
use ring::hmac;

/// What both ends' proofs are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding<'a> {
    /// As what the dialer comes.
    pub(crate) role: Role,
    /// Its name.
    pub(crate) id: &'a NodeId,
    /// Its number.
    pub(crate) dialer: &'a Nonce,
    /// The acceptor's number.
    pub(crate) acceptor: &'a Nonce,
    /// What TLS exports of this connection; zeros without TLS.
    pub(crate) exporter: &'a [u8; 32],
}

/// Whose proof it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prover {
    /// Who was dialled.
    Acceptor,
    /// Who dialled.
    Dialer,
}

impl<'a> Binding<'a> {
    /// What belongs to this `Hello` on this connection.
    pub(crate) fn of(hello: &'a Hello, acceptor: &'a Nonce, exporter: &'a [u8; 32]) -> Self {
        Self { role: hello.role, id: &hello.id, dialer: &hello.nonce, acceptor, exporter }
    }

    fn message(&self, prover: Prover) -> Vec<u8> {
        let domain = match prover {
            Prover::Acceptor => "reachback/1 secret acceptor",
            Prover::Dialer => "reachback/1 secret dialer",
        };
        let role = self.role.to_string();
        let fields: [&[u8]; 6] = [
            domain.as_bytes(),
            role.as_bytes(),
            self.id.as_str().as_bytes(),
            &self.dialer.0,
            &self.acceptor.0,
            self.exporter,
        ];
        let mut message = Vec::with_capacity(256);
        for field in fields {
            // Each is a few dozen bytes.
            message.extend_from_slice(&(field.len() as u32).to_be_bytes());
            message.extend_from_slice(field);
        }
        message
    }
}

/// The proof that `prover` knows the secret.
pub(crate) fn prove(secret: &Secret, prover: Prover, binding: &Binding<'_>) -> Mac {
    let mut mac = Mac([0; 32]);
    mac.0.copy_from_slice(hmac::sign(&key(secret), &binding.message(prover)).as_ref());
    mac
}

/// Whether `proof` is what `prover` would say if it knew the secret. In constant time.
pub(crate) fn verify(secret: &Secret, prover: Prover, binding: &Binding<'_>, proof: &Mac) -> bool {
    hmac::verify(&key(secret), &binding.message(prover), &proof.0).is_ok()
}

fn key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_thing_only() {
        let (id, other): (NodeId, NodeId) = ("edge-7".parse().unwrap(), "edge-8".parse().unwrap());
        let (a, b) = (Nonce([1; 32]), Nonce([2; 32]));
        let (here, elsewhere) = ([3; 32], [0; 32]);
        let secret = Secret::new("a long enough secret");
        let binding = Binding { role: Role::Node, id: &id, dialer: &a, acceptor: &b, exporter: &here };
        let proof = prove(&secret, Prover::Dialer, &binding);
        assert!(verify(&secret, Prover::Dialer, &binding, &proof));
        // Sent back to whom it came from; by somebody who knows another secret; for another name or role; with other
        // numbers, their order included; on another connection.
        assert!(!verify(&secret, Prover::Acceptor, &binding, &proof));
        assert!(!verify(&Secret::new("a long enough secres"), Prover::Dialer, &binding, &proof));
        for binding in [
            Binding { id: &other, ..binding },
            Binding { role: Role::Client, ..binding },
            Binding { dialer: &b, ..binding },
            Binding { acceptor: &a, ..binding },
            Binding { dialer: &b, acceptor: &a, ..binding },
            Binding { exporter: &elsewhere, ..binding },
        ] {
            assert!(!verify(&secret, Prover::Dialer, &binding, &proof), "{binding:?}");
        }
    }

    /// From another implementation of HMAC, written down once: what other languages have to compute.
    #[test]
    fn the_proofs_of_the_protocol_page() {
        let id = "edge-7".parse().unwrap();
        let (dialer, acceptor, exporter) = (Nonce([0x5c; 32]), Nonce([0xa7; 32]), [0; 32]);
        let binding =
            Binding { role: Role::Node, id: &id, dialer: &dialer, acceptor: &acceptor, exporter: &exporter };
        let secret = Secret::new("correct horse battery staple");
        let hex = |prover| {
            prove(&secret, prover, &binding).0.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(hex(Prover::Acceptor), "5f16f7670ab12c5f92e067e1c8389509eef65c7ba1337908fde1c47b40914485");
        assert_eq!(hex(Prover::Dialer), "0f3901fa2eebb2e5d0baad4030bf6507c76e52255a6b968b690cb1ca88950179");
    }
}
