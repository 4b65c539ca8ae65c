//! The acceptor's end of a TLS handshake.
//!
//! The first message is read before anything is decided: what the dialer wants to speak (ALPN) chooses whether it is asked
//! for a certificate, so that a browser never shows a dialog about one, and its server name chooses the certificate that
//! a browser sees. Certificates can be exchanged while connections stand; each handshake uses those of its beginning.

use std::{io, sync::Arc};

use parking_lot::RwLock;
use reachback_wire::limits;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{danger::HandshakeSignatureValid, verify_server_name},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        Acceptor, ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::{
    Alpn, EXPORTER, Identity, TUNNEL, TlsError, TlsPeer, WEB, bounded::Bounded, pipe::TlsPipe, provider,
    words,
};
use crate::Transport;

/// What an acceptor shows of itself.
#[derive(Debug, Clone)]
pub struct AcceptIdentity {
    /// To dialers of the tunnel, and to everybody else for whom there is nothing better. Its chain ends with the authority
    /// itself: a dialer that knows only the pin has to see it.
    pub tunnel: Identity,
    /// To browsers: the first one with the name that they ask for, else the first.
    pub web: Vec<Identity>,
}

/// Accepts TLS. What it shows can be exchanged while it is in use.
#[derive(Debug)]
pub struct AcceptTls {
    configs: RwLock<Arc<Configs>>,
}

/// Why a connection did not get through TLS. The peer was told by an alert, where that was possible.
#[derive(Debug, thiserror::Error)]
pub enum AcceptTlsError {
    /// It took too long.
    #[error("no complete TLS handshake in time")]
    Timeout,
    /// The peer left, or the socket failed.
    #[error("closed during the TLS handshake: {0}")]
    Closed(#[source] io::Error),
    /// What it said can't be agreed to, or it did not agree with us.
    #[error("the TLS handshake failed: {0}")]
    Refused(String),
}

impl AcceptTls {
    /// Shows `identity`.
    ///
    /// # Errors
    /// A certificate for browsers can't be read.
    pub fn new(identity: AcceptIdentity) -> Result<Self, TlsError> {
        Ok(Self { configs: RwLock::new(Arc::new(Configs::new(identity)?)) })
    }

    /// Shows another one from the next handshake on. After an error the old one stays.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn replace(&self, identity: AcceptIdentity) -> Result<(), TlsError> {
        let configs = Arc::new(Configs::new(identity)?);
        *self.configs.write() = configs;
        Ok(())
    }

    /// Shakes hands by `deadline`. The first message is waited for freely; the work behind it needs one of `places`, which
    /// is kept for [`limits::TLS_PLACE`] at most, so that peers that stop in the middle do not stop others.
    ///
    /// What is known of the peer is in [`Transport::tls`].
    ///
    /// # Errors
    /// [`AcceptTlsError`] says which step failed.
    pub async fn accept(
        &self,
        below: Transport,
        places: &Semaphore,
        deadline: Instant,
    ) -> Result<Transport, AcceptTlsError> {
        let shaking = async {
            let start =
                LazyConfigAcceptor::new(Acceptor::default(), Bounded::new(below)).await.map_err(failed)?;
            let place = places.acquire().await.map_err(|_| {
                AcceptTlsError::Closed(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "this end is stopping",
                ))
            })?;
            let configs = Arc::clone(&self.configs.read());
            finish(start, &configs, place).await
        };
        timeout_at(deadline, shaking).await.unwrap_or(Err(AcceptTlsError::Timeout))
    }
}

async fn finish(
    start: StartHandshake<Bounded>,
    configs: &Configs,
    place: SemaphorePermit<'_>,
) -> Result<Transport, AcceptTlsError> {
    let hello = start.client_hello();
    let tunnel = hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == TUNNEL));
    let (alpn, config) = match tunnel {
        true => (Alpn::Tunnel, &configs.tunnel),
        false => (Alpn::Web, &configs.web),
    };
    let mut accepting = std::pin::pin!(start.into_stream(Arc::clone(config)));
    let outcome = tokio::select! {
        outcome = &mut accepting => outcome,
        () = sleep(limits::TLS_PLACE) => {
            drop(place);
            accepting.await
        }
    };
    let (bounded, tls) = outcome.map_err(failed)?.into_inner();
    let chain =
        tls.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
    let exporter = tls
        .export_keying_material([0; 32], EXPORTER, None)
        .map_err(|error| AcceptTlsError::Refused(words::of(&error)))?;
    let peer = TlsPeer { alpn, exporter, chain };
    let pipe = TlsPipe::new(bounded.into_below(), tls.into(), Arc::new(peer)).map_err(failed)?;
    Ok(pipe.into())
}

fn failed(error: io::Error) -> AcceptTlsError {
    match words::inside(&error) {
        Some(inside) => AcceptTlsError::Refused(words::of(inside)),
        None if error.kind() == io::ErrorKind::InvalidData => AcceptTlsError::Refused(error.to_string()),
        None => AcceptTlsError::Closed(error),
    }
}

/// Two ways of shaking hands.
#[derive(Debug)]
struct Configs {
    tunnel: Arc<ServerConfig>,
    web: Arc<ServerConfig>,
}

impl Configs {
    fn new(identity: AcceptIdentity) -> Result<Self, TlsError> {
        let AcceptIdentity { tunnel, web } = identity;
        let own = tunnel.certified();
        let mut sites = Vec::with_capacity(web.len());
        for identity in &web {
            sites.push(Site::new(identity)?);
        }
        let algorithms = provider().signature_verification_algorithms;
        let asking = Arc::new(AskAndLetThrough { algorithms });
        let config = || {
            ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| TlsError(error.to_string()))
        };
        let tunnel = config()?
            .with_client_cert_verifier(asking)
            .with_cert_resolver(Arc::new(Sites { sites: Vec::new(), own: Arc::clone(&own) }));
        let web = config()?.with_no_client_auth().with_cert_resolver(Arc::new(Sites { sites, own }));
        Ok(Self { tunnel: finished(tunnel, TUNNEL), web: finished(web, WEB) })
    }
}

/// No sessions are kept to be resumed: what was believed once is judged again.
fn finished(mut config: ServerConfig, protocol: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// A certificate for browsers.
#[derive(Debug)]
struct Site {
    certified: Arc<CertifiedKey>,
}

impl Site {
    fn new(identity: &Identity) -> Result<Self, TlsError> {
        let certified = identity.certified();
        let own = certified.end_entity_cert().map_err(|error| TlsError(error.to_string()))?;
        ParsedCertificate::try_from(own).map_err(|error| {
            TlsError(format!("a certificate for browsers can't be used: {}", words::of(&error)))
        })?;
        Ok(Self { certified })
    }

    fn is(&self, name: &ServerName<'_>) -> bool {
        let own = self.certified.end_entity_cert().and_then(ParsedCertificate::try_from);
        own.is_ok_and(|own| verify_server_name(&own, name).is_ok())
    }
}

/// Chooses by the name that was asked for.
#[derive(Debug)]
struct Sites {
    sites: Vec<Site>,
    own: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Sites {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = asked.and_then(|name| self.sites.iter().find(|site| site.is(&name)));
        let site = named.or(self.sites.first()).map_or(&self.own, |site| &site.certified);
        Some(Arc::clone(site))
    }
}

/// Asks for a certificate, demands none, and lets every one through whose key is proved.
#[derive(Debug)]
struct AskAndLetThrough {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AskAndLetThrough {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, own, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
