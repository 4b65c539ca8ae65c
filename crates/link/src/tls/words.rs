//! What rustls says, as sentences. An alert is a number of one byte that a stranger sent; whoever reads a log wants to know
//! what the other end made of us.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// An error of TLS as half a sentence.
pub(super) fn of(error: &Error) -> String {
    use AlertDescription as A;
    match error {
        Error::AlertReceived(alert) => match alert {
            A::UnknownCA => "the other end does not know the authority of our certificate".into(),
            A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => {
                "the other end does not believe our certificate".into()
            }
            A::CertificateExpired => {
                "the other end finds our certificate expired, or not yet valid: compare the clocks".into()
            }
            A::CertificateRevoked => "the other end says that our certificate is revoked".into(),
            A::CertificateRequired => {
                "the other end wants a client certificate in TLS itself; a proxy in between?".into()
            }
            A::HandshakeFailure => "the other end refuses TLS (alert handshake_failure)".into(),
            A::ProtocolVersion => "the other end speaks no TLS 1.3".into(),
            A::NoApplicationProtocol => "the other end has no application protocol in common with us".into(),
            A::UnrecognisedName => "the other end serves nobody of the name that was dialled".into(),
            A::AccessDenied => "the other end denies access".into(),
            A::InternalError => "the other end failed (alert internal_error)".into(),
            A::DecryptError => {
                "the other end can't verify what we signed; do our certificate and key belong together?"
                    .into()
            }
            A::BadRecordMac => "bytes were changed on the way".into(),
            alert => format!("the other end sent the TLS alert {alert:?}"),
        },
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "the other end speaks TLS 1.2 at most; TLS 1.3 is needed, update it".into(),
        Error::NoApplicationProtocol => "the other end has no application protocol in common with us".into(),
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => {
            "the other end sent what is no TLS at this place".into()
        }
        Error::DecryptError => "bytes were changed on the way".into(),
        Error::PeerMisbehaved(_) => "the other end broke the rules of TLS".into(),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "the other end does not prove that it holds the key of its certificate".into()
        }
        Error::InvalidCertificate(error) => format!("invalid certificate: {error}"),
        error => error.to_string(),
    }
}

/// The error of TLS inside one of reading or writing.
pub(super) fn inside(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
