//! The dialer's end of a TLS handshake: an explorer is believed or told from a stranger, in words.

use std::{io, sync::Arc};

use reachback_wire::Code;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection,
    client::{ResolvesClientCert, Resumption},
    pki_types::ServerName,
    sign::CertifiedKey,
};
use tokio_rustls::TlsConnector;

use super::{
    Alpn, EXPLORER_NAME, EXPORTER, Identity, ServerTrust, TUNNEL, TlsError, TlsPeer, TrustClock, Untrusted,
    bounded::{ALERT, Bounded, HANDSHAKE},
    pipe::TlsPipe,
    provider,
    trust::{Trust, Verifier},
    words,
};
use crate::{Address, Transport};

/// How a dialer protects its line.
#[derive(Debug, Clone, Default)]
pub enum DialSecurity {
    /// Not at all: both ends see what they say, and so does everybody in between.
    #[default]
    Plain,
    /// TLS 1.3, with the explorer known by an authority.
    Tls(Arc<DialTls>),
}

/// Everything a dialer needs for TLS. Made once, used for every dial; a new certificate is a new value.
#[derive(Debug)]
pub struct DialTls {
    trust: Arc<Trust>,
    config: ClientConfig,
}

/// Why TLS did not stand.
pub(crate) enum ConnectError {
    Untrusted(Untrusted),
    /// What can be said about it.
    Tls(Code, String),
    Broken(io::Error),
}

impl DialTls {
    /// Believes explorers by `trust` at the time of `clock`, and shows `identity`, if there is one.
    ///
    /// # Errors
    /// No authority is named, or the certificate of one can't be used.
    pub fn new(
        trust: &ServerTrust,
        identity: Option<&Identity>,
        clock: TrustClock,
    ) -> Result<Self, TlsError> {
        let trust = Arc::new(Trust::new(trust, clock)?);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(&trust)));
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Always(identity.certified()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![TUNNEL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { trust, config })
    }

    /// The clock by which explorers are judged.
    pub fn clock(&self) -> &TrustClock {
        self.trust.clock()
    }

    /// Shakes hands. Has no deadline of its own.
    pub(crate) async fn connect(&self, below: Transport, to: &Address) -> Result<Transport, ConnectError> {
        let verifier = Arc::new(Verifier::new(&self.trust));
        let reason = Arc::clone(&verifier.reason);
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(verifier);
        let connecting = TlsConnector::from(Arc::new(config)).connect(server_name(to), Bounded::new(below));
        let stream = match connecting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, bounded)) => {
                return Err(match reason.lock().take() {
                    Some(untrusted) => ConnectError::Untrusted(untrusted),
                    None => explain(error, bounded.first()),
                });
            }
        };
        let (bounded, tls) = stream.into_inner();
        let peer = peer_of(&tls).map_err(ConnectError::Broken)?;
        if tls.alpn_protocol() != Some(TUNNEL) {
            let what = "it is believed, but does not speak reachback/1; is it a proxy that ends TLS?";
            return Err(ConnectError::Tls(Code::HandshakeFailed, what.into()));
        }
        let pipe =
            TlsPipe::new(bounded.into_below(), tls.into(), Arc::new(peer)).map_err(ConnectError::Broken)?;
        Ok(pipe.into())
    }
}

/// What is dialled, for whoever routes by it on the way; believed is only [`EXPLORER_NAME`].
fn server_name(to: &Address) -> ServerName<'static> {
    let dialled = match to {
        Address::Tcp { host, .. } => ServerName::try_from(host.clone()).ok(),
        Address::Unix(_) => None,
    };
    dialled.unwrap_or_else(|| ServerName::try_from(EXPLORER_NAME).expect("a constant that is a host name"))
}

fn peer_of(tls: &ClientConnection) -> io::Result<TlsPeer> {
    let chain =
        tls.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
    let exporter = tls
        .export_keying_material([0; 32], EXPORTER, None)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(TlsPeer { alpn: Alpn::Tunnel, exporter, chain })
}

/// What went wrong, from what TLS says and the first bytes that came.
fn explain(error: io::Error, first: &[u8]) -> ConnectError {
    if !first.is_empty() && !matches!(first[0], HANDSHAKE | ALERT) {
        let first = first.escape_ascii();
        let what = format!(
            "it does not speak TLS here (the first bytes it sent are \"{first}\"); check the port, or whether this \
             listener is meant for plaintext"
        );
        return ConnectError::Tls(Code::PlaintextRejected, what);
    }
    let Some(inside) = words::inside(&error) else { return ConnectError::Broken(error) };
    match inside {
        // What our own plaintext listeners answer.
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => ConnectError::Tls(
            Code::PlaintextRejected,
            format!("{}; is this a listener without TLS?", words::of(inside)),
        ),
        rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => ConnectError::Tls(
            Code::HandshakeFailed,
            "it speaks TLS, but not reachback/1: another server, or a proxy that ends TLS; check the address"
                .into(),
        ),
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            ConnectError::Tls(Code::Expired, words::of(inside))
        }
        _ => ConnectError::Tls(Code::HandshakeFailed, words::of(inside)),
    }
}

/// The same certificate whoever asks: an explorer names no authorities.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
