//! Who a peer is, by the mode of the listener it came through: the one place where modes mean something.
//!
//! | came through | must show | is |
//! |---|---|---|
//! | the Unix socket | nothing: the kernel says whose process it is | our own user and root: an admin; others: a user who may call everything |
//! | `strict` | nodes: a certificate that names them; users: one, or a token | what that says |
//! | `permissive` | a certificate or a token, or the shared secret if there is one | what that says |
//! | `development`, `legacy` | the shared secret, if there is one | whoever it says it is |
//!
//! A certificate is judged here and not in the TLS handshake, so that a refusal is a sentence and not an alert. What a
//! credential is worth is for `security/` to know; that it must be shown, and where, is decided here.

use std::sync::Arc;

use futures::future::FutureExt;
use reachback_link::{PeerAddress, own_uid, tls::PeerCertificate};
use reachback_wire::{Code, Credential, Hello, Hex, NodeId, Refusal, Role, Secret};

use crate::{
    auth::{Authenticator, Principal, Verdict, Visit, no_cluster, visitor},
    config::ExplorerConfig,
    modes::Mode,
    security::Security,
};

/// The explorer's own [`Authenticator`].
pub(crate) struct Judge {
    security: Option<Arc<Security>>,
    secret: Option<Arc<Secret>>,
    /// Whether a node's certificate is asked for on permissive listeners too.
    certificates_only: bool,
    own_uid: Option<u32>,
}

impl Judge {
    pub(crate) fn new(config: &ExplorerConfig, security: Option<Arc<Security>>) -> Self {
        let own_uid = own_uid()
            .inspect_err(|error| {
                tracing::warn!(%error, "who this process is can't be found out; only root is an admin on the local socket");
            })
            .ok();
        let certificates_only = config.tls.as_ref().and_then(|tls| tls.require_client_auth) == Some(true);
        Self { security, secret: config.secret.clone(), certificates_only, own_uid }
    }

    /// Through the Unix socket.
    fn local(&self, role: Role, id: NodeId, uid: Option<u32>) -> Result<Principal, Refusal> {
        self.may_be_believed(role, &id)?;
        let owner = uid.is_some_and(|uid| uid == 0 || Some(uid) == self.own_uid);
        let mut who = Principal::believed(role, id);
        if owner {
            return Ok(who);
        }
        if role == Role::Node && self.security.is_some() {
            let message = format!(
                "{} can't connect as a node through this socket: on an explorer with TLS that is for the explorer's own user \
                 and root. Join with a join string instead; an admin makes one: reachback token create --role register \
                 --node {}",
                who.id, who.id
            );
            return Err(Refusal::new(Code::Denied, message));
        }
        who.admin = false;
        Ok(who)
    }

    /// An id that a key has is not given to somebody without it, wherever he comes in.
    fn may_be_believed(&self, role: Role, id: &NodeId) -> Result<(), Refusal> {
        match &self.security {
            Some(security) if role == Role::Node => security.may_be_believed(id),
            _ => Ok(()),
        }
    }

    /// Without encryption: whoever it says it is, if it knows the secret.
    fn believed(&self, hello: &Hello) -> Result<Verdict, Refusal> {
        self.may_be_believed(hello.role, &hello.id)?;
        let who = Principal::believed(hello.role, hello.id.clone());
        match (&hello.credential, &self.secret) {
            (Some(Credential::Join { .. } | Credential::Renew { .. }), _) => Err(no_certificates_here()),
            (Some(Credential::Secret { .. }), Some(secret)) => {
                Ok(Verdict::Prove { secret: secret.clone(), then: who })
            }
            (Some(Credential::Secret { .. }), None) => Err(no_secret_here()),
            (_, Some(_)) => Err(Refusal::new(
                Code::Unauthenticated,
                "this listener asks for the shared secret of this explorer; give it: --secret-file FILE",
            )),
            (_, None) => Ok(who.into()),
        }
    }

    /// Over TLS.
    fn secured(&self, security: &Arc<Security>, hello: &Hello, visit: &Visit) -> Result<Verdict, Refusal> {
        let (role, id) = (hello.role, hello.id.clone());
        let strict = visit.mode == Mode::Strict;
        let certificate = match &visit.tls {
            Some(tls) => security.judge(tls),
            None => PeerCertificate::None,
        };
        match &hello.credential {
            Some(Credential::Join { token, csr }) => {
                let (security, token, csr) = (security.clone(), token.clone(), csr.clone());
                let from = visit.peer.to_string();
                Ok(enrolment(move || security.enrol(&token, &csr.0, role, &id, &from)))
            }
            Some(Credential::Renew { csr }) => renewal(security, certificate, csr, hello, visit),
            Some(Credential::Secret { .. }) if strict => Err(Refusal::new(
                Code::Unauthenticated,
                "this listener is strict: it takes certificates, not the shared secret; join with a join string",
            )),
            Some(Credential::Secret { .. }) => match &self.secret {
                Some(secret) => {
                    self.may_be_believed(role, &id)?;
                    let then = Principal::believed(role, id);
                    Ok(Verdict::Prove { secret: secret.clone(), then })
                }
                None => Err(no_secret_here()),
            },
            Some(Credential::Token { token })
                if role != Role::Node || !(strict || self.certificates_only) =>
            {
                let key = match &certificate {
                    PeerCertificate::Valid(names) => Some(names.spki),
                    _ => None,
                };
                security.admit_token(token, role, &id, key).map(Verdict::Admit)
            }
            Some(Credential::Unknown) => Err(Refusal::new(
                Code::Unauthenticated,
                "this explorer does not know the kind of credential that was shown; update it, or show a certificate",
            )),
            Some(Credential::Token { .. }) | None => {
                by_certificate(security, certificate, role, &id).map(Verdict::Admit)
            }
        }
    }
}

impl Authenticator for Judge {
    fn admit(&self, hello: &Hello, visit: &Visit) -> Result<Verdict, Refusal> {
        no_cluster(hello.role)?;
        match (&visit.peer, visit.mode, &self.security) {
            (PeerAddress::Unix { uid, .. }, ..) => {
                self.local(hello.role, hello.id.clone(), *uid).map(Verdict::Admit)
            }
            (_, Mode::Strict | Mode::Permissive, Some(security)) => self.secured(security, hello, visit),
            (_, Mode::Strict | Mode::Permissive, None) => Err(unsure()),
            (_, Mode::Development | Mode::Legacy, _) => self.believed(hello),
        }
    }

    fn admit_plain(&self, visit: &Visit, bearer: Option<&Secret>) -> Result<Principal, Refusal> {
        match (&visit.peer, visit.mode, &self.security) {
            (PeerAddress::Unix { uid, .. }, ..) => self.local(Role::Client, visitor(), *uid),
            (_, Mode::Strict | Mode::Permissive, Some(security)) => match bearer {
                Some(token) => security.admit_token(token, Role::Client, &visitor(), None),
                None => Err(Refusal::new(
                    Code::Unauthenticated,
                    "this listener takes requests of users it knows only; send the header Authorization: Bearer TOKEN. An \
                     admin makes a token: reachback token create --role user --name NAME --allow 'NODE/SERVICE'",
                )),
            },
            (_, Mode::Strict | Mode::Permissive, None) => Err(unsure()),
            (_, Mode::Development | Mode::Legacy, _) if self.secret.is_some() => Err(Refusal::new(
                Code::Unauthenticated,
                "this listener asks for the shared secret of this explorer, which HTTP and raw JSON can't prove; use \
                 reachback call with --secret-file, or the local socket",
            )),
            (_, Mode::Development | Mode::Legacy, _) => Ok(Principal::believed(Role::Client, visitor())),
        }
    }
}

/// What a certificate that has expired may do, and nothing else.
fn renewal(
    security: &Arc<Security>,
    certificate: PeerCertificate,
    csr: &Hex,
    hello: &Hello,
    visit: &Visit,
) -> Result<Verdict, Refusal> {
    let names = match certificate {
        PeerCertificate::Valid(names) | PeerCertificate::Expired(names) => names,
        PeerCertificate::Refused(why) => return Err(not_believed(&why)),
        PeerCertificate::None => return Err(nothing_shown(hello.role, &hello.id)),
    };
    let (security, csr, from) = (security.clone(), csr.clone(), visit.peer.to_string());
    Ok(enrolment(move || security.renew(&names, &csr.0, &from)))
}

fn by_certificate(
    security: &Security,
    certificate: PeerCertificate,
    role: Role,
    id: &NodeId,
) -> Result<Principal, Refusal> {
    match certificate {
        PeerCertificate::Valid(names) => security.admit_certificate(&names, role, id),
        PeerCertificate::Expired(names) => {
            let message = format!(
                "the certificate of {} is past its time; it can only be renewed, which reachback does by itself. If that is \
                 refused, join again with a new join string",
                names.cn.as_deref().unwrap_or(id.as_str())
            );
            Err(Refusal::new(Code::Expired, message))
        }
        PeerCertificate::Refused(why) => Err(not_believed(&why)),
        PeerCertificate::None => Err(nothing_shown(role, id)),
    }
}

/// Makes a certificate where files and the database may be waited for.
fn enrolment(make: impl FnOnce() -> Result<reachback_wire::Enrolled, Refusal> + Send + 'static) -> Verdict {
    let making = tokio::task::spawn_blocking(make).map(|made| match made {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "making a certificate failed");
            Err(Refusal::new(Code::Internal, "an error in the explorer; see its log"))
        }
    });
    Verdict::Enrol(making.boxed())
}

fn nothing_shown(role: Role, id: &NodeId) -> Refusal {
    match role {
        Role::Node => {
            let message = format!(
                "node {id} showed no certificate. Start it with a join string; an admin makes one: reachback token create \
                 --role register --node {id}"
            );
            Refusal::new(Code::MtlsRequired, message)
        }
        Role::Client | Role::Explorer => Refusal::new(
            Code::Unauthenticated,
            "nothing was shown that says who you are: log in with reachback login STRING, or give REACHBACK_TOKEN_FILE. An \
             admin makes the string: reachback token create --role user --name NAME --allow 'NODE/SERVICE'",
        ),
    }
}

fn not_believed(why: &str) -> Refusal {
    let message = format!(
        "the certificate that was shown is not believed: {why}. If it is of another explorer, join this one with a join \
         string of its own"
    );
    Refusal::new(Code::Unauthenticated, message)
}

fn no_certificates_here() -> Refusal {
    Refusal::new(
        Code::PlaintextRejected,
        "certificates are given over TLS only, and this listener has none; dial the address in the join string, or leave the \
         join string out",
    )
}

fn no_secret_here() -> Refusal {
    Refusal::new(
        Code::Unauthenticated,
        "this explorer has no shared secret; give it one with --secret-file, or leave it out here",
    )
}

/// A listener with TLS always comes with what judges its peers.
fn unsure() -> Refusal {
    Refusal::new(Code::Internal, "this explorer can't judge who you are; see its log")
}

#[cfg(test)]
mod tests {
    use reachback_wire::{Generation, Instance, Nonce, ProtocolRange};

    use super::*;
    use crate::{modes::Mode, security::SecurityConfig};

    fn config() -> ExplorerConfig {
        ExplorerConfig::new("hub-1".parse().unwrap())
    }

    fn hello(role: Role) -> Hello {
        Hello {
            role,
            id: "edge-7".parse().unwrap(),
            generation: Generation { instance: Instance([1; 16]), slot: 0, seq: 1 },
            protocol: ProtocolRange::SUPPORTED,
            agent: String::new(),
            nonce: Nonce([2; 32]),
            features: Vec::new(),
            credential: None,
            resume: None,
        }
    }

    fn through_the_socket(uid: Option<u32>) -> Visit {
        Visit { peer: PeerAddress::Unix { uid, pid: None }, mode: Mode::Development, tls: None }
    }

    /// Whether it is let in, and as an admin.
    fn admitted(judge: &Judge, role: Role, uid: Option<u32>) -> Option<bool> {
        match judge.admit(&hello(role), &through_the_socket(uid)) {
            Ok(Verdict::Admit(who)) => Some(who.admin),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                assert_eq!(refusal.code, Code::Denied, "{refusal}");
                None
            }
        }
    }

    #[tokio::test]
    async fn on_the_unix_socket_the_kernel_says_who_is_an_admin() {
        let state = tempfile::tempdir().unwrap();
        let security = Security::open(state.path(), SecurityConfig::new("hub-1".parse().unwrap())).unwrap();
        let (mut alone, mut secured) =
            (Judge::new(&config(), None), Judge::new(&config(), Some(Arc::new(security))));
        for judge in [&mut alone, &mut secured] {
            judge.own_uid = Some(1000);
        }
        for (uid, admin, node_beside_tls) in [
            (Some(1000), true, true),
            (Some(0), true, true),
            (Some(1001), false, false),
            (None, false, false),
        ] {
            for judge in [&alone, &secured] {
                assert_eq!(admitted(judge, Role::Client, uid), Some(admin), "{uid:?}");
                let plain = judge.admit_plain(&through_the_socket(uid), None).unwrap();
                assert_eq!(plain.admin, admin, "{uid:?}");
            }
            // Without TLS anywhere nodes are believed here as they are elsewhere.
            assert!(admitted(&alone, Role::Node, uid).is_some(), "{uid:?}");
            assert_eq!(admitted(&secured, Role::Node, uid).is_some(), node_beside_tls, "{uid:?}");
        }
        secured.own_uid = None;
        assert_eq!(
            admitted(&secured, Role::Client, Some(1000)),
            Some(false),
            "who this process is, is not known"
        );
    }

    #[tokio::test]
    async fn an_explorer_is_nobody_in_this_version() {
        let judge = Judge::new(&config(), None);
        let refusal = judge.admit(&hello(Role::Explorer), &through_the_socket(Some(0))).unwrap_err();
        assert_eq!(refusal.code, Code::Denied);
    }
}
