//! Belonging to an explorer's fleet by a certificate: how it is got, shown, renewed and got again.
//!
//! An operator pastes one line and never thinks of certificates again. So whoever holds a [`Membership`] decides before
//! each dial what to do, by itself: show the certificate; or, where there is none, exchange the join string for one; or
//! have one renewed that has expired. What the explorer says to that changes what is done next time (plan.rs), and nothing
//! is ever given up: the remedy is usually on the other side, and the refusal is told with it (remedy.rs).
//!
//! A kept identity wins over a join string, so that one can stay in a unit file for ever. It loses when the explorer no
//! longer knows it (an ephemeral name that was forgotten). And it loses to a join string that it did not come from, which
//! is an operator's word, when it was revoked or the explorer shows another authority (it was set up anew).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use reachback_link::{
    Address, DialError, DialSecurity,
    tls::{
        CertificateDer, DialTls, KeyAndCsr, PrivateKey, ServerTrust, TlsError, TrustClock, Untrusted, sha256,
    },
};
use reachback_wire::{Code, Credential, Enrolled, Hex, NodeId, Renewed, Role, Welcome, join};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

use crate::{
    access::AccessError,
    enrolment::{About, Enrolment, load_clock, store_clock},
    limits::CLOCK_KEPT_EVERY,
    plan::{Answer, Failed, JoinString, Plan, Step},
    remedy,
    state_dir::{StateDir, StateError},
};

/// An identity in a fleet, or the means to get one. Clones are the same one.
#[derive(Clone)]
pub struct Membership(Arc<Inner>);

struct Inner {
    role: Role,
    id: NodeId,
    join: Option<Join>,
    state: Option<StateDir>,
    clock: TrustClock,
    held: Mutex<Held>,
    /// One line enrols; the others take what it got.
    turn: Arc<Semaphore>,
}

struct Join {
    string: join::JoinString,
    addresses: Vec<Address>,
}

#[derive(Default)]
struct Held {
    member: Option<Member>,
    /// The key to join with: the same at each attempt, since an id belongs to one.
    key: Option<PrivateKey>,
    plan: Plan,
    /// A certificate came and no session has begun with it yet: if it is refused, another one won't help.
    unproven: bool,
    /// Why nothing can be kept.
    warning: Option<String>,
    clock_kept_ms: u64,
}

#[derive(Clone)]
struct Member {
    enrolment: Enrolment,
    security: DialSecurity,
}

/// What to show on the next connection, and whom to believe.
pub(crate) struct Papers {
    pub(crate) step: Step,
    pub(crate) security: DialSecurity,
    pub(crate) credential: Option<Credential>,
    /// The key that a certificate is asked for.
    key: Option<PrivateKey>,
    _turn: Option<OwnedSemaphorePermit>,
}

/// Why there is no membership to begin with.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// What is kept can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nothing is kept, and there is no join string.
    #[error("{} has no identity yet: start it once with the join string that the explorer printed, or get one there with: {}", remedy::whose(*.role, .id), remedy::token(*.role, .id))]
    Nothing {
        /// As what it wants in.
        role: Role,
        /// Its name.
        id: NodeId,
    },
    /// What is kept is somebody else's.
    #[error(
        "{} holds the identity of \"{kept}\", and this is \"{id}\": give the id \"{kept}\" or another --state-dir",
        path.display()
    )]
    Other {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        kept: NodeId,
        /// Who wants to use it.
        id: NodeId,
    },
    /// The join string, or what is kept, names no place that can be dialled.
    #[error("the address \"{address}\" can't be dialled: {reason}; get another join string")]
    Address {
        /// As it is written.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is kept makes no identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Membership {
    /// What `state_dir` keeps, or the means to get it. Reads and writes files.
    ///
    /// # Errors
    /// What is kept can't be used; or nothing is, and there is no join string.
    pub fn open(
        role: Role,
        id: NodeId,
        state_dir: Option<&Path>,
        join: Option<join::JoinString>,
    ) -> Result<Self, MembershipError> {
        let state = state_dir.map(StateDir::at);
        let kept = state.as_ref().map(Enrolment::load).transpose()?.flatten();
        let clock_kept_ms = state.as_ref().and_then(load_clock).unwrap_or_default();
        let clock = TrustClock::starting_from(clock_kept_ms);
        let mut held = Held { clock_kept_ms, ..Held::default() };
        match (kept, &state) {
            (Some(enrolment), Some(state)) if enrolment.about.id != id || enrolment.about.role != role => {
                let kept = enrolment.about.id;
                return Err(MembershipError::Other { path: state.path().to_owned(), kept, id });
            }
            (Some(enrolment), _) => held.member = Some(Member::new(enrolment, &clock)?),
            (None, _) if join.is_none() => return Err(MembershipError::Nothing { role, id }),
            // Whoever can't keep what a join string brings should know before the string is used up.
            (None, Some(state)) => {
                held.warning = state.probe().err().map(|error| remedy::unkept(role, &error))
            }
            (None, None) => {}
        }
        if let Some(warning) = &held.warning {
            tracing::warn!("{warning}");
        }
        let join = join.map(Join::new).transpose()?;
        let (held, turn) = (Mutex::new(held), Arc::new(Semaphore::new(1)));
        Ok(Self(Arc::new(Inner { role, id, join, state, clock, held, turn })))
    }

    /// Where explorers are: as the join string says, which is newer than what is kept if both are there.
    ///
    /// # Errors
    /// What is kept names none that can be dialled.
    pub fn explorers(&self) -> Result<Vec<Address>, MembershipError> {
        if let Some(join) = &self.0.join {
            return Ok(join.addresses.clone());
        }
        let held = self.0.held.lock();
        let kept = held.member.as_ref().map(|member| member.enrolment.about.explorers.as_slice());
        addresses(kept.unwrap_or_default())
    }

    /// What it calls itself.
    pub fn id(&self) -> &NodeId {
        &self.0.id
    }

    /// Until when the certificate is good, once there is one: milliseconds since 1970.
    pub fn not_after_unix_ms(&self) -> Option<u64> {
        self.0.held.lock().member.as_ref().map(|member| member.enrolment.not_after_unix_ms)
    }

    /// Why nothing is kept over a restart, if that is so.
    pub fn warning(&self) -> Option<String> {
        self.0.held.lock().warning.clone()
    }

    /// The clock by which explorers are judged.
    pub fn clock(&self) -> &TrustClock {
        &self.0.clock
    }

    /// What to show on the next connection. Waits while another line of the process enrols.
    pub(crate) async fn papers(&self) -> Result<Papers, AccessError> {
        let papers = self.draw_up(self.step())?;
        if papers.step == Step::Session {
            return Ok(papers);
        }
        let turn = self.0.turn.clone().acquire_owned().await.ok();
        // Whoever had the turn before may have done it for us.
        Ok(Papers { _turn: turn, ..self.draw_up(self.step())? })
    }

    /// What to show for a session, whatever the clock says: for whoever has just enrolled.
    pub(crate) fn session_papers(&self) -> Result<Papers, AccessError> {
        self.draw_up(Step::Session)
    }

    /// What to show in order to enrol, whatever is kept: for whoever logs in again.
    pub(crate) fn join_papers(&self) -> Result<Papers, AccessError> {
        self.draw_up(Step::Join)
    }

    /// An explorer has let us in. The link has told the clock, if what the explorer says of the time makes sense.
    pub(crate) async fn welcomed(&self, welcome: &Welcome) {
        let now = welcome.time_unix_ms;
        let believed = now <= self.0.clock.now_unix_ms();
        let keep = {
            let mut held = self.0.held.lock();
            (held.plan, held.unproven) = (Plan::AsUsual, false);
            let due = believed && now > held.clock_kept_ms.saturating_add(CLOCK_KEPT_EVERY);
            if due {
                held.clock_kept_ms = now;
            }
            // Where the identity can't be kept, the time can't be either.
            due && held.warning.is_none()
        };
        if let (true, Some(state)) = (keep, self.0.state.clone()) {
            let kept = spawn_blocking(move || store_clock(&state, now)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(%error, "the time that the explorer told is not kept");
            }
        }
    }

    /// An explorer did not let us in: what is done next may be something else. True if it is worth trying at once.
    pub(crate) fn failed(&self, step: Step, error: &DialError) -> bool {
        let mut held = self.0.held.lock();
        let came_from = held.member.as_ref().map(|member| &member.enrolment.about.joined_with);
        let attempt = Failed {
            step,
            plan: held.plan,
            answer: match error {
                DialError::Denied(refusal) => Answer::Denied(refusal.code),
                DialError::Untrusted { why: Untrusted::Authority, .. } => Answer::OtherAuthority,
                _ => Answer::None,
            },
            join: match &self.0.join {
                None => JoinString::None,
                Some(join) if came_from == Some(&join.fingerprint()) => JoinString::Used,
                Some(_) => JoinString::New,
            },
            unproven: held.unproven,
            expired: held
                .member
                .as_ref()
                .is_some_and(|member| self.is_past(member.enrolment.not_after_unix_ms)),
        };
        let (plan, at_once) = attempt.next();
        held.plan = plan;
        at_once
    }

    /// Takes what a `Join` or `Renew` has brought.
    pub(crate) async fn enrolled(&self, papers: Papers, enrolled: &Enrolled) -> Result<(), AccessError> {
        let Some(key) = papers.key else { return Ok(()) };
        let mut about = self.about();
        if let (Step::Join, Some(join)) = (papers.step, &self.0.join) {
            about.explorers = join.addresses.iter().map(ToString::to_string).collect();
            about.joined_with = join.fingerprint();
        }
        self.take(about, key, enrolled).await
    }

    /// A request for a certificate in place of the one there is.
    pub(crate) fn request(&self) -> Result<Option<Hex>, AccessError> {
        let key = self.0.held.lock().member.as_ref().map(|member| member.enrolment.key.clone());
        let Some(key) = key else { return Ok(None) };
        Ok(Some(Hex(KeyAndCsr::with_key(self.0.id.as_str(), key)?.csr().to_vec())))
    }

    /// Takes what a request over a session has brought: the next dial shows it.
    pub(crate) async fn renewed(&self, renewed: Renewed) -> Result<(), AccessError> {
        let Some(member) = self.0.held.lock().member.clone() else { return Ok(()) };
        let name = member.enrolment.about.name;
        let enrolled = Enrolled { chain: renewed.chain, ca: renewed.ca, name };
        self.take(self.about(), member.enrolment.key, &enrolled).await
    }

    /// When the certificate should be renewed, by the clock of explorers; nothing while there is none.
    pub(crate) fn renew_at_unix_ms(&self) -> Option<u64> {
        self.0.held.lock().member.as_ref().map(|member| member.enrolment.renew_at_unix_ms())
    }

    /// What a refusal means for this machine, with what to do about it where it does not say.
    pub(crate) fn explain(&self, code: Code, message: &str) -> String {
        remedy::explain(self.0.role, &self.0.id, code, message)
    }

    fn step(&self) -> Step {
        let held = self.0.held.lock();
        let Some(Member { enrolment, .. }) = &held.member else { return Step::Join };
        // A node renews over its session; a command that runs once may have no time for that.
        let early = self.0.role == Role::Client && self.is_past(enrolment.renew_at_unix_ms());
        held.plan.step(early || self.is_past(enrolment.not_after_unix_ms))
    }

    fn is_past(&self, unix_ms: u64) -> bool {
        self.0.clock.now_unix_ms() >= unix_ms
    }

    fn draw_up(&self, step: Step) -> Result<Papers, AccessError> {
        let mut held = self.0.held.lock();
        let papers = |security, credential, key| Papers { step, security, credential, key, _turn: None };
        match (step, &held.member, &self.0.join) {
            (Step::Session, Some(member), _) => Ok(papers(member.security.clone(), None, None)),
            (Step::Renew, Some(member), _) => {
                let request = KeyAndCsr::with_key(self.0.id.as_str(), member.enrolment.key.clone())?;
                let credential = Credential::Renew { csr: Hex(request.csr().to_vec()) };
                Ok(papers(member.security.clone(), Some(credential), Some(request.key().clone())))
            }
            (_, _, Some(join)) => {
                let key = held.member.as_ref().map(|member| member.enrolment.key.clone());
                let request = match key.or_else(|| held.key.clone()) {
                    Some(key) => KeyAndCsr::with_key(self.0.id.as_str(), key)?,
                    None => KeyAndCsr::generate(self.0.id.as_str())?,
                };
                held.key = Some(request.key().clone());
                let trust = &ServerTrust { pins: vec![join.string.pin()], roots: Vec::new() };
                let security = DialSecurity::Tls(Arc::new(DialTls::new(trust, None, self.0.clock.clone())?));
                let csr = Hex(request.csr().to_vec());
                let credential = Credential::Join { token: join.string.token().clone(), csr };
                Ok(papers(security, Some(credential), held.key.clone()))
            }
            // Opening one asks for either.
            (_, _, None) => Err(AccessError::NoIdentity(self.0.id.clone())),
        }
    }

    /// About a certificate that comes now.
    fn about(&self) -> About {
        let now = self.0.clock.now_unix_ms();
        let held = self.0.held.lock();
        let kept = held.member.as_ref().map(|member| member.enrolment.about.clone());
        let mut about = kept.unwrap_or_else(|| About::new(self.0.role, self.0.id.clone(), now));
        about.obtained_unix_ms = now;
        about
    }

    async fn take(&self, about: About, key: PrivateKey, enrolled: &Enrolled) -> Result<(), AccessError> {
        let enrolment = Enrolment::new(about, key, enrolled)?;
        let member = Member::new(enrolment.clone(), &self.0.clock)?;
        let until = enrolment.not_after_unix_ms;
        let kept = match self.0.state.clone() {
            Some(state) => spawn_blocking(move || enrolment.store(&state)).await.unwrap_or(Ok(())),
            None => Ok(()),
        };
        let mut held = self.0.held.lock();
        (held.member, held.plan, held.unproven, held.key) = (Some(member), Plan::AsUsual, true, None);
        match kept {
            Ok(()) => held.warning = None,
            Err(error) => {
                let warning = remedy::unkept(self.0.role, &error);
                if held.warning.is_none() {
                    tracing::warn!("{warning}");
                }
                held.warning = Some(warning);
            }
        }
        tracing::info!(id = %self.0.id, until_unix_ms = until, "a certificate has come");
        Ok(())
    }
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("role", &self.0.role)
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

impl Join {
    fn new(string: join::JoinString) -> Result<Self, MembershipError> {
        let addresses = addresses(string.addresses())?;
        Ok(Self { string, addresses })
    }

    /// What tells its token from others.
    fn fingerprint(&self) -> Hex {
        Hex(sha256(self.string.token().expose().as_bytes()).to_vec())
    }
}

impl Member {
    fn new(enrolment: Enrolment, clock: &TrustClock) -> Result<Self, TlsError> {
        let roots: Vec<CertificateDer<'static>> = enrolment.authorities.clone();
        let trust = &ServerTrust { pins: Vec::new(), roots };
        let identity = enrolment.identity()?;
        let security = DialSecurity::Tls(Arc::new(DialTls::new(trust, Some(&identity), clock.clone())?));
        Ok(Self { enrolment, security })
    }
}

fn addresses(texts: &[String]) -> Result<Vec<Address>, MembershipError> {
    let address = |text: &String| {
        text.parse().map_err(|error| MembershipError::Address {
            address: reachback_wire::text::sanitize(text, 80),
            reason: format!("{error}"),
        })
    };
    texts.iter().map(address).collect()
}
