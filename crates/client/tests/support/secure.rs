//! An explorer's end of the line over TLS, with an authority of its own: whom it enrols and lets in is up to the test.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by several test targets, each of which needs a part of it"
)]

use std::{ops::Range, sync::Arc};

use reachback_link::{
    Address, Admission, greet,
    tls::{
        AcceptIdentity, AcceptTls, AcceptTlsError, CertificateDer, PeerCertificate, Roots, TrustClock, pin,
    },
};
use reachback_testkit::certificates::{Authority, HOUR, Leaf};
use reachback_wire::{Credential, Enrolled, Hex, ProtocolRange, Refusal, Secret, join::JoinString};
use tokio::{sync::Semaphore, time::Instant};

use crate::support::{Hub, PATIENCE, Peer, within};

/// A listening explorer that speaks TLS.
pub struct SafeHub {
    pub hub: Hub,
    pub authority: Arc<Authority>,
    accept: AcceptTls,
    roots: Roots,
    places: Semaphore,
}

impl SafeHub {
    pub async fn bind() -> Self {
        let mut hub = Hub::bind().await;
        hub.welcome.time_unix_ms = TrustClock::system().now_unix_ms();
        let authority = Arc::new(Authority::new("the hub's authority"));
        let tunnel = authority.issue(&Leaf::explorer()).identity();
        let accept = AcceptTls::new(AcceptIdentity { tunnel, web: Vec::new() }).unwrap();
        let roots = Roots::new(&[authority.certificate()]).unwrap();
        Self { hub, authority, accept, roots, places: Semaphore::new(8) }
    }

    /// The explorer at this address is set up anew: another authority.
    pub fn set_up_anew(&mut self) {
        self.use_authority(Arc::new(Authority::new("another authority")));
    }

    /// Both are explorers of one cluster.
    pub fn share_authority_of(&mut self, other: &Self) {
        self.use_authority(other.authority.clone());
    }

    fn use_authority(&mut self, authority: Arc<Authority>) {
        self.authority = authority;
        let tunnel = self.authority.issue(&Leaf::explorer()).identity();
        self.accept.replace(AcceptIdentity { tunnel, web: Vec::new() }).unwrap();
        self.roots = Roots::new(&[self.authority.certificate()]).unwrap();
    }

    pub fn address(&self) -> Address {
        self.hub.address()
    }

    /// A join string for it with this token.
    pub fn join(&self, token: &str) -> JoinString {
        let pin = pin(&self.authority.certificate()).unwrap();
        JoinString::new(vec![self.address().to_string()], pin, Secret::new(token)).unwrap()
    }

    /// The next dialer, if it gets through TLS.
    pub async fn handshake(&mut self) -> Result<Admission, String> {
        let above = loop {
            let below = self.hub.connection().await;
            let deadline = Instant::now() + PATIENCE;
            match self.accept.accept(below, &self.places, deadline).await {
                Ok(above) => break above,
                // Of a dialer that was stopped while it waited to be accepted.
                Err(AcceptTlsError::Closed(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
        };
        within("a hello", greet(above, ProtocolRange::SUPPORTED)).await.map_err(|error| error.to_string())
    }

    /// The next dialer, its `Hello` read.
    pub async fn greeted(&mut self) -> Admission {
        self.handshake().await.unwrap()
    }

    /// What the dialer's certificate is worth.
    pub fn certificate(&self, admission: &Admission) -> PeerCertificate {
        let tls = admission.tls().expect("it came over TLS");
        tls.certificate(&self.roots, TrustClock::system().now_unix_ms())
    }

    /// Gives a dialer that asks for one the certificate of `leaf`.
    pub async fn enrol(&self, admission: Admission, leaf: &Leaf) -> CertificateDer<'static> {
        let csr = csr(&admission);
        let chain = self.authority.sign(&csr, leaf);
        let own = chain[0].clone();
        admission.enrolled(&self.enrolled(chain)).await;
        own
    }

    pub fn enrolled(&self, chain: Vec<CertificateDer<'static>>) -> Enrolled {
        let hex = |der: &CertificateDer<'_>| Hex(der.as_ref().to_vec());
        Enrolled {
            chain: chain.iter().map(hex).collect(),
            ca: vec![hex(&self.authority.certificate())],
            name: "ann".into(),
        }
    }

    /// The next dialer, let in.
    pub async fn admit(&mut self) -> Peer {
        let admission = self.greeted().await;
        Peer::new(admission, &self.hub.welcome).await
    }

    pub async fn deny(&mut self, refusal: Refusal) {
        self.greeted().await.deny(&refusal).await;
    }
}

/// What a dialer asks a certificate with.
pub fn csr(admission: &Admission) -> Vec<u8> {
    match &admission.hello.credential {
        Some(Credential::Join { csr, .. } | Credential::Renew { csr }) => csr.0.clone(),
        other => panic!("it asks for no certificate: {other:?}"),
    }
}

/// The token that a dialer joins with.
pub fn joins_with(admission: &Admission) -> Option<String> {
    match &admission.hello.credential {
        Some(Credential::Join { token, .. }) => Some(token.expose().to_owned()),
        _ => None,
    }
}

pub fn renews(admission: &Admission) -> bool {
    matches!(admission.hello.credential, Some(Credential::Renew { .. }))
}

/// A node's certificate that is good for these seconds from now.
pub fn leaf(valid: Range<i64>) -> Leaf {
    Leaf::node("edge-7").valid(valid)
}

/// One that is good for long.
pub fn good() -> Leaf {
    leaf(-HOUR..90 * 24 * HOUR)
}
