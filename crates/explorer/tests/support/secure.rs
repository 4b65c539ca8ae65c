//! An explorer that faces strangers, in memory: with a state directory, tokens, and peers that hold certificates.

use std::sync::Arc;

use reachback_explorer::{
    Explorer, ExplorerConfig, Mode,
    security::{Actor, Security, TokenRequest, TokenRole, Uses},
};
use reachback_link::{
    DialError, DialSecurity, enrol,
    tls::{CertificateDer, DialTls, Identity, KeyAndCsr, ServerTrust, TrustClock},
};
use reachback_wire::{
    Credential, Hello, Hex, Role, Secret,
    rights::{NamePattern, Rights},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{ServerName, UnixTime},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::client::TlsStream;

use super::{Http, Hub, Peer, Pipes, config, generation, hello};

/// An explorer whose one listener has TLS.
pub(crate) struct Secure {
    pub(crate) hub: Hub,
    pub(crate) state: TempDir,
    config: ExplorerConfig,
}

/// Somebody with a certificate.
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) id: String,
    pub(crate) key: KeyAndCsr,
    pub(crate) security: DialSecurity,
}

impl Secure {
    pub(crate) async fn start(mode: Mode) -> Self {
        Self::start_with(mode, |_| {}).await
    }

    pub(crate) async fn start_with(mode: Mode, change: impl FnOnce(&mut ExplorerConfig)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = config();
        config.mode = Some(mode);
        config.state_dir = Some(state.path().join("explorer"));
        config.advertise = vec!["hub.example.com:9002".parse().unwrap()];
        change(&mut config);
        let net = Arc::new(Pipes::default());
        let explorer = Explorer::start(config.clone(), net.clone()).await.unwrap();
        Self { hub: Hub { explorer, net }, state, config }
    }

    /// Starts it once more in the same directory, in which every certificate seems to be an old one.
    pub(crate) async fn a_while_later(&mut self) {
        let net = Arc::new(Pipes::default());
        let nothing = Hub { explorer: Explorer::start(config(), net.clone()).await.unwrap(), net };
        let before = std::mem::replace(&mut self.hub, nothing);
        before.explorer.shutdown().await;
        let file = self.state.path().join("explorer/security.db");
        let database = rusqlite::Connection::open(file).unwrap();
        database.execute("UPDATE enrolments SET issued_ms = 0", []).unwrap();
        drop(database);
        let net = Arc::new(Pipes::default());
        let explorer = Explorer::start(self.config.clone(), net.clone()).await.unwrap();
        self.hub = Hub { explorer, net };
    }

    pub(crate) fn security(&self) -> &Arc<Security> {
        self.hub.explorer.security().unwrap()
    }

    pub(crate) fn trust(&self) -> ServerTrust {
        ServerTrust { pins: vec![self.security().material().pin], roots: Vec::new() }
    }

    /// As whoever believes this explorer and holds `identity`.
    pub(crate) fn dialling(&self, identity: Option<&Identity>) -> DialSecurity {
        let tls = DialTls::new(&self.trust(), identity, TrustClock::system()).unwrap();
        DialSecurity::Tls(Arc::new(tls))
    }

    /// A token as `token create` makes it.
    pub(crate) fn token(&self, role: TokenRole, name: &str, allow: &[&str]) -> Secret {
        let register = role == TokenRole::Register;
        let request = TokenRequest {
            role,
            name: (!register).then(|| name.parse().unwrap()),
            node: register.then(|| name.parse::<NamePattern>().unwrap()),
            allow: rights(allow),
            ttl: std::time::Duration::from_secs(900),
            uses: register.then_some(Uses::Unlimited),
            ephemeral: false,
        };
        self.security().create_token(&request, &Actor::new("a test", "here")).unwrap().token
    }

    pub(crate) async fn join(&self, role: Role, id: &str, token: &Secret) -> Result<Member, DialError> {
        let key = KeyAndCsr::generate(id).unwrap();
        let mut hello = hello(role, id, generation(1, 0, 1));
        let csr = Hex(key.csr().to_vec());
        hello.credential = Some(Credential::Join { token: token.clone(), csr });
        let enrolled =
            enrol(self.hub.net.as_ref(), &"hub:1".parse().unwrap(), &hello, &self.dialling(None)).await?;
        let chain = enrolled.chain.into_iter().map(|one| CertificateDer::from(one.0)).collect();
        let identity = Identity::new(chain, key.key()).unwrap();
        Ok(Member { role, id: id.to_owned(), key, security: self.dialling(Some(&identity)) })
    }

    /// A node that joined with a token that lets it call what `allow` says.
    pub(crate) async fn node(&self, id: &str, allow: &[&str]) -> Member {
        let token = self.token(TokenRole::Register, id, allow);
        self.join(Role::Node, id, &token).await.unwrap()
    }

    pub(crate) async fn user(&self, name: &str, allow: &[&str]) -> Member {
        let token = self.token(TokenRole::User, name, allow);
        self.join(Role::Client, name, &token).await.unwrap()
    }

    pub(crate) async fn admin(&self) -> Member {
        let token = self.token(TokenRole::Admin, "root", &[]);
        self.join(Role::Client, "root", &token).await.unwrap()
    }

    pub(crate) async fn dial(&self, hello: &Hello, security: &DialSecurity) -> Result<Peer, DialError> {
        Peer::dial_with(self.hub.line().await, hello, security).await
    }

    /// A session of this member.
    pub(crate) async fn session(&self, member: &Member, instance: u8) -> Result<Peer, DialError> {
        let hello = hello(member.role, &member.id, generation(instance, 0, 1));
        self.dial(&hello, &member.security).await
    }

    /// A node with these services that is online.
    pub(crate) async fn online(&self, member: &Member, services: &[&str]) -> Peer {
        let node = self.session(member, 1).await.unwrap();
        node.declare(services).await;
        let session = node.welcome.session;
        self.hub.until(&member.id, |view| view.session == Some(session)).await;
        node
    }

    /// TLS as browsers and curl speak it, whoever is at the other end.
    pub(crate) async fn web(&self) -> TlsStream<DuplexStream> {
        self.tls("hub.example.com", &[]).await.0
    }

    /// TLS with whatever is at the other end, asking for this name and offering these protocols; with the certificate that
    /// was shown.
    pub(crate) async fn tls(
        &self,
        name: &'static str,
        protocols: &[&str],
    ) -> (TlsStream<DuplexStream>, CertificateDer<'static>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.dangerous().set_certificate_verifier(Arc::new(Anybody));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let pipe = self.hub.net.pipe().await;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(ServerName::try_from(name).unwrap(), pipe).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        (stream, shown)
    }

    /// One request over TLS.
    pub(crate) async fn https(&self, request: &[u8]) -> Http {
        let mut stream = self.web().await;
        stream.write_all(request).await.unwrap();
        Http::read(&mut stream).await.expect("a whole response")
    }

    /// Everything that comes back over TLS for these bytes.
    pub(crate) async fn over_tls(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.web().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }
}

pub(crate) fn rights(texts: &[&str]) -> Rights {
    Rights::new(texts.iter().map(|text| text.parse().unwrap()).collect()).unwrap()
}

/// Believes every server: these tests look at what it shows.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
