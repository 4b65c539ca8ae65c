//! TLS in the place of the transport: who is at the other end, and nobody in between.
//!
//! Other tunnels have TLS that is off, unverified, or tied to the address that was dialled. Here both ends are known by
//! what they hold. A node knows its explorer by an authority ([`ServerTrust`]) and one fixed name, so a new address or a
//! balancer needs no new certificate. An explorer asks dialers for a certificate, lets whoever proves its key through,
//! and judges what the certificate is worth afterwards ([`TlsPeer::certificate`]), so that a refusal is a sentence in our
//! own frame and not an alert with a number.
//!
//! * [`identity`]: a key, the certificates for it, and a request for one.
//! * [`names`]: what a certificate says, and the pin of an authority.
//! * [`trust`]: whether to believe an explorer. [`clock`]: at what time.
//! * [`dialing`], [`accepting`]: the two ends of a handshake. [`peer`]: what is known after it.
//! * `secret`: proofs of a shared secret, bound to the connection.
//!
//! rustls with ring, TLS 1.3 only, no tickets, no early data. It is named nowhere outside this folder.

pub mod accepting;
mod bounded;
pub mod clock;
pub mod dialing;
pub mod identity;
pub mod names;
pub mod peer;
pub(crate) mod pipe;
pub(crate) mod secret;
pub mod trust;
mod words;

use std::sync::Arc;

pub use accepting::{AcceptIdentity, AcceptTls, AcceptTlsError};
pub use clock::{TrustClock, utc};
pub use dialing::{DialSecurity, DialTls};
pub use identity::{Identity, KeyAndCsr, PrivateKey, TlsError, certificates_from_pem, certificates_to_pem};
pub use names::{CertificateNames, EXPLORER_NAME, pin, sha256};
pub use peer::{Alpn, PeerCertificate, Roots, TlsPeer};
use rustls::crypto::CryptoProvider;
pub use rustls::pki_types::CertificateDer;
pub use trust::{ServerTrust, Untrusted};

/// The application protocol of a tunnel.
const TUNNEL: &[u8] = b"reachback/1";

/// What browsers and other HTTP clients speak here.
const WEB: &[u8] = b"http/1.1";

/// What a proof is bound to: this label, no context, 32 bytes.
const EXPORTER: &[u8] = b"EXPORTER-reachback/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
