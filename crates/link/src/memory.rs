//! The one figure that bounds what peers can make this process hold.
//!
//! A connection is always read, so memory can't be bounded by not reading: somebody has to give something up. Three
//! marks decide. Above 75 % of the budget nothing new begins. Above the whole of it the session with the most unread
//! bytes is asked to give up the stream that holds most of them, and then the next, until less than 90 % is held. One
//! session is asked at a time, so no more is given up than has to be, and ordinary sessions do not pay for the one that
//! fills the memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Waker,
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Bytes that peers make this process hold, over all sessions. What the kernel and fixed structures take is not
/// counted.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    accounts: Mutex<Accounts>,
}

/// What is held for peers outside of sessions: the body of a call that is being read. Dropping it gives it back.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

/// What one session holds of a budget. Dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<MemoryBudget>,
    number: u64,
    held: Arc<Held>,
    /// Bytes that wait to be sent: memory too, but nothing that a session could give up.
    sending: usize,
}

#[derive(Debug, Default)]
struct Accounts {
    open: BTreeMap<u64, Arc<Held>>,
    next: u64,
    /// Who is asked to give something up, and has not yet.
    asked: Option<u64>,
}

#[derive(Debug, Default)]
struct Held {
    unread: AtomicUsize,
    asked: AtomicBool,
    driver: AtomicWaker,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), accounts: Mutex::default() }
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Nothing yet, to grow.
    pub fn reserve(self: &Arc<Self>) -> Reserved {
        Reserved { budget: self.clone(), bytes: 0 }
    }

    /// Whether so much is held that nothing new may begin.
    pub fn is_strained(&self) -> bool {
        self.used() > self.limit / 100 * 75
    }

    /// Whether more is held than may be: something is given up then.
    fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// Whether so little is held again that nothing more is given up.
    fn is_relieved(&self) -> bool {
        self.used() <= self.limit / 100 * 90
    }

    /// More is held, which may make the process ask somebody to give something up.
    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        if self.is_exceeded() {
            self.relieve();
        }
    }

    /// Asks whoever holds most, unless somebody is asked already.
    fn relieve(&self) {
        let mut accounts = self.accounts.lock();
        if accounts.asked.is_none() {
            accounts.ask();
        }
    }

    /// Whoever was asked has done what it could.
    fn answered(&self, number: u64) {
        let mut accounts = self.accounts.lock();
        if accounts.asked.take_if(|asked| *asked == number).is_some() && !self.is_relieved() {
            accounts.ask();
        }
    }
}

impl Reserved {
    /// Holds so many bytes more. Whoever holds more than the process may says no to its peer first: see
    /// [`MemoryBudget::is_strained`].
    pub fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.take(bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Accounts {
    fn ask(&mut self) {
        let most = self.open.iter().max_by_key(|(_, held)| held.unread());
        if let Some((number, held)) = most.filter(|(_, held)| held.unread() > 0) {
            self.asked = Some(*number);
            held.asked.store(true, Ordering::Release);
            held.driver.wake();
        }
    }
}

impl Account {
    pub(crate) fn open(budget: Arc<MemoryBudget>) -> Self {
        let held = Arc::new(Held::default());
        let number = {
            let mut accounts = budget.accounts.lock();
            let number = accounts.next;
            accounts.next += 1;
            accounts.open.insert(number, held.clone());
            number
        };
        Self { budget, number, held, sending: 0 }
    }

    /// Unread bytes held for this session.
    pub(crate) fn unread(&self) -> usize {
        self.held.unread()
    }

    /// Bytes that wait to be sent.
    pub(crate) fn sending(&self) -> usize {
        self.sending
    }

    /// More unread bytes, which may make the process ask somebody to give something up.
    pub(crate) fn hold(&mut self, bytes: usize) {
        self.held.unread.fetch_add(bytes, Ordering::Relaxed);
        self.budget.take(bytes);
    }

    /// Unread bytes that were read, or given up.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.held.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// More bytes that wait to be sent.
    pub(crate) fn queue(&mut self, bytes: usize) {
        self.sending += bytes;
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were sent, or will not be.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let bytes = bytes.min(self.sending);
        self.sending -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether this session is asked to give something up. If it is not, `waker` is woken when it is.
    pub(crate) fn is_asked(&self, waker: &Waker) -> bool {
        self.held.driver.register(waker);
        self.must_give()
    }

    /// The same, for who is running anyway.
    pub(crate) fn must_give(&self) -> bool {
        self.held.asked.load(Ordering::Acquire)
    }

    /// The session has given up what it could; the next is asked if that was not enough.
    pub(crate) fn has_given(&self) {
        self.held.asked.store(false, Ordering::Release);
        self.budget.answered(self.number);
    }
}

impl Held {
    fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release(self.unread());
        self.sent(self.sending);
        self.budget.accounts.lock().open.remove(&self.number);
        self.budget.answered(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, task::Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn accounts<const N: usize>(limit: usize) -> (Arc<MemoryBudget>, [Account; N]) {
        let budget = Arc::new(MemoryBudget::new(limit));
        let accounts = std::array::from_fn(|_| Account::open(budget.clone()));
        (budget, accounts)
    }

    fn asked(accounts: &[Account]) -> Vec<bool> {
        accounts.iter().map(Account::must_give).collect()
    }

    #[test]
    fn at_seventy_five_percent_nothing_new_begins() {
        let (budget, [mut account]) = accounts(1_000);
        account.hold(700);
        account.queue(50);
        assert!(!budget.is_strained(), "exactly at the mark");
        account.queue(1);
        assert!(budget.is_strained());
        account.sent(1);
        assert!(!budget.is_strained());
    }

    #[test]
    fn whoever_holds_most_gives_until_less_than_ninety_percent_is_held() {
        let (budget, mut all) = accounts::<3>(1_000);
        all[0].hold(100);
        all[1].hold(450);
        all[2].hold(450);
        assert_eq!(asked(&all), [false; 3], "exactly at the limit");
        all[0].hold(60);
        assert_eq!(asked(&all).iter().filter(|asked| **asked).count(), 1, "one at a time");
        assert!(!all[0].must_give(), "not the one that happened to notice");
        let first = if all[1].must_give() { 1 } else { 2 };
        all[first].release(50);
        all[first].has_given();
        assert_eq!(budget.used(), 1_010);
        let second = 3 - first;
        assert_eq!(asked(&all)[1..], [second == 1, second == 2], "now the other holds most");
        all[second].release(105);
        all[second].has_given();
        assert_eq!(budget.used(), 905);
        assert!(all[first].must_give(), "below the limit is not yet enough");
        all[first].release(5);
        all[first].has_given();
        assert_eq!(asked(&all), [false; 3]);
    }

    #[test]
    fn who_is_asked_is_woken() {
        let (_budget, [mut greedy, mut calm]) = accounts(1_000);
        let woken = Arc::new(Woken::default());
        greedy.hold(900);
        assert!(!greedy.is_asked(&Waker::from(woken.clone())));
        calm.hold(200);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(greedy.must_give());
    }

    #[test]
    fn what_waits_to_be_sent_makes_nobody_give_up_what_is_unread() {
        let (_budget, [mut sender, mut reader]) = accounts(1_000);
        sender.queue(2_000);
        assert_eq!((sender.must_give(), reader.must_give()), (false, false), "there is nothing to give up");
        reader.hold(1);
        assert!(reader.must_give());
    }

    #[test]
    fn a_session_that_ends_while_it_is_asked_passes_the_question_on() {
        let (budget, [mut first, mut second, mut third]) = accounts(1_000);
        second.hold(480);
        third.hold(470);
        first.hold(500);
        assert!(first.must_give());
        first.release(0);
        drop(first);
        assert_eq!(budget.used(), 950);
        assert!(second.must_give());
        second.release(100);
        second.has_given();
        assert!(!third.must_give() && !second.must_give());
    }

    #[test]
    fn everything_comes_back() {
        let (budget, [mut account]) = accounts(1_000);
        account.hold(300);
        account.queue(200);
        let mut body = budget.reserve();
        body.grow(100);
        body.grow(50);
        assert_eq!(budget.used(), 650);
        drop(account);
        assert_eq!(budget.used(), 150);
        drop(body);
        assert_eq!(budget.used(), 0);
        assert!(budget.accounts.lock().open.is_empty());
    }
}
