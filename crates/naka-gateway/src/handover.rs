//! One process hands over to the next: listening sockets, and what is known.
//!
//! The next one connects to the Unix socket at `gateway.upgrade.socket`. They say lines of JSON to one another,
//! each behind its length, and nobody but the user of the process and root is listened to:
//!
//! | | the next one | this one |
//! | --- | --- | --- |
//! | 1 | `hello`, once its files are read | `offer`: the secret of its keys |
//! | 2 | `take`, once its configuration is assembled and tested | `sockets`, with a copy of each; `known`, and what that is |
//! | 3 | `ready`, once that is put to use | `over` |
//! | 4 | accepts, and puts its own sockets in the place of ours: `done` | accepts no more, and ends what it is at |
//!
//! Until `done` this one goes on as if nothing had happened, and it does so for ever if the other one ends or is silent
//! for too long. Both hold the same sockets, so a connection that waits is accepted by one of them. Between 2 and 4 nothing is
//! reloaded, and nothing is done by hand.
//!
//! Whichever of the two dies, the other one serves. So whoever lives and does not hand over says so (`refused`), also
//! when it is told to end or panics: where the connection ends between 2 and 3 without a word, this one has died, and the next one
//! goes on without it. It ends where something is cut off in the middle, and at silence: then this one may live.
//!
//! What was decided here after what is known was taken, and until the last connection has ended, counts here only.

use std::{
    fmt, io,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::{Shutdown, SocketAddr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    time::Duration,
};

use naka::{clock::Now, key::KeySecret};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use crate::{
    address::Address,
    saved::{self, Saved},
    state::State,
    unix_socket::Identity,
};

/// Of what is said here.
const VERSION: u32 = 3;
/// The longest line, in bytes.
const LINE: usize = 1 << 20;
/// The most sockets.
const SOCKETS: usize = 4096;
/// How many of them are sent at once.
const AT_ONCE: usize = 64;
/// How long an answer may take that nobody has to think about.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the next process may take to assemble and test its configuration.
const ASSEMBLING: Duration = Duration::from_mins(1);
/// How long it may take until it is ready; it has to find its endpoints first.
const READY: Duration = Duration::from_secs(30);
/// How long it is tried to say that nothing comes of it.
const REFUSAL: Duration = Duration::from_secs(1);
/// How long accepting pauses when it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is said.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Hello { version: u32, pid: u32 },
    Offer { pid: u32, secret: [u8; 16] },
    Refused { why: String },
    Take,
    Sockets { listeners: Vec<Address>, admin: Option<SocketAddr>, files: Vec<Identity> },
    Known,
    Ready { listeners: Vec<Address>, admin: bool },
    Over,
    Done,
}

/// Sockets that go from one process to the other.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Each with the address of its listener in the configuration.
    pub listeners: Vec<(Address, OwnedFd)>,
    /// That of the admin port.
    pub admin: Option<(SocketAddr, OwnedFd)>,
    /// Files of Unix sockets, which whoever takes over may put its own in the place of; those of the listeners that it takes
    /// are its own then.
    pub files: Vec<Identity>,
}

/// What the next process goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Listeners, by their addresses in the configuration.
    pub listeners: Vec<Address>,
    /// The address of the admin port.
    pub admin: bool,
}

/// Lets one process after the other ask, and hands those on that want to take over. While one of them is at it, the
/// others wait.
pub async fn attend(listener: UnixListener, takers: mpsc::Sender<Taker>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (taker, mut is_done) = match greeted(stream).await {
            Ok(Some(met)) => met,
            Ok(None) => continue,
            Err(why) => {
                warn!("a process that asked to take over was turned away: {why}");
                continue;
            }
        };
        if takers.send(taker).await.is_err() {
            return; // Nobody hands over any more.
        }
        let _ = (&mut is_done).await; // Dropped when it is over, whatever came of it.
    }
}

/// Whoever has been told the secret and wants the rest; none if they think better of it.
async fn greeted(stream: UnixStream) -> Result<Option<(Taker, oneshot::Receiver<()>)>, Trouble> {
    let mut conversation = Conversation::with(stream)?;
    let met = tokio::task::spawn_blocking(move || {
        conversation.within(ANSWER);
        let pid = match conversation.hear()? {
            Line::Hello { version: VERSION, pid } => pid,
            Line::Hello { version, .. } => {
                let why = format!("it speaks version {version}, and this one version {VERSION}");
                conversation.say(&Line::Refused { why: why.clone() })?;
                return Err(Trouble::Refused(why));
            }
            _ => return Err(Trouble::Unexpected),
        };
        let secret = KeySecret::in_force().to_bytes();
        conversation.say(&Line::Offer { pid: std::process::id(), secret })?;
        conversation.within(ASSEMBLING);
        match conversation.hear() {
            Ok(Line::Take) => Ok(Some((conversation, pid))),
            Ok(_) => Err(Trouble::Unexpected),
            Err(Trouble::Gone) => {
                debug!(pid, "a process asked to take over, and ended before it did");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    });
    let Some((conversation, pid)) = met.await.map_err(|_| Trouble::Unexpected)?? else { return Ok(None) };
    let (done, is_done) = oneshot::channel();
    Ok(Some((Taker { conversation, pid, has_taken: false, _done: done }, is_done)))
}

/// A process that wants to take over now. Dropped, it hears that it does not.
#[derive(Debug)]
pub struct Taker {
    conversation: Conversation,
    /// Its number, as it says.
    pub pid: u32,
    has_taken: bool,
    _done: oneshot::Sender<()>,
}

impl Taker {
    /// Ends the conversation from outside of it.
    ///
    /// # Errors
    /// If the process may have no more files open.
    pub fn hang_up(&self) -> io::Result<HangUp> {
        self.conversation.stream.try_clone().map(HangUp)
    }

    /// Hands over, and says what the other process goes on with. Blocks, for less than a minute.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn hand_over(mut self, sockets: &Sockets, state: &State) -> Result<Taken, Trouble> {
        let conversation = &mut self.conversation;
        conversation.within(ANSWER);
        conversation.say(&Line::Sockets {
            listeners: sockets.listeners.iter().map(|(name, _)| name.clone()).collect(),
            admin: sockets.admin.as_ref().map(|(address, _)| *address),
            files: sockets.files.clone(),
        })?;
        let admin = sockets.admin.as_ref().map(|(_, socket)| socket);
        let all = sockets.listeners.iter().map(|(_, socket)| socket).chain(admin).collect::<Vec<_>>();
        conversation.give(&all)?;
        let bytes = Saved::of(state, Now::read()).encode().unwrap_or_else(|why| {
            warn!("what is known is not handed over: {why}");
            Vec::new()
        });
        conversation.within(ANSWER);
        conversation.say(&Line::Known)?;
        conversation.say_bytes(&bytes)?;
        conversation.within(READY);
        let Line::Ready { listeners, admin } = conversation.hear()? else { return Err(Trouble::Unexpected) };
        conversation.within(ANSWER);
        conversation.say(&Line::Over)?;
        let Line::Done = conversation.hear()? else { return Err(Trouble::Unexpected) };
        self.has_taken = true;
        Ok(Taken { listeners, admin })
    }
}

impl Drop for Taker {
    /// Without a word it would be taken for the death of this process.
    fn drop(&mut self) {
        if !self.has_taken {
            let why = "it goes on, or was told to end, and its log says more".to_owned();
            self.conversation.within(REFUSAL);
            let _ = self.conversation.say(&Line::Refused { why }); // It may be gone.
        }
    }
}

/// Dropped, it ends a conversation: nothing is heard any more, so unless that is over, the other process is refused.
#[derive(Debug)]
pub struct HangUp(StdStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Read); // It may be over.
    }
}

/// The next process, on its way to take over. Dropped, it does not.
#[derive(Debug)]
pub struct Upgrade {
    conversation: Conversation,
    /// The number of the process that hands over, as it says.
    pub pid: u32,
    /// What its keys are hashed with.
    pub secret: KeySecret,
}

impl Upgrade {
    /// Asks whoever listens at this path. Nothing has changed there.
    ///
    /// # Errors
    /// If nobody does, or they do not want to.
    pub async fn ask(path: &Path) -> Result<Self, Trouble> {
        let stream = UnixStream::connect(path).await?;
        let mut conversation = Conversation::with(stream)?;
        conversation.within(ANSWER);
        conversation.say(&Line::Hello { version: VERSION, pid: std::process::id() })?;
        let Line::Offer { pid, secret } = conversation.hear()? else { return Err(Trouble::Unexpected) };
        Ok(Self { conversation, pid, secret: KeySecret::new(secret) })
    }

    /// Takes the sockets and what is known; if the other one dies in between, only those. From now on it waits, and not
    /// for long.
    ///
    /// # Errors
    /// If it does not give them.
    pub fn take(&mut self) -> Result<(Sockets, Result<Saved, Unknown>), Trouble> {
        let conversation = &mut self.conversation;
        conversation.within(READY);
        conversation.say(&Line::Take)?;
        let Line::Sockets { listeners, admin, files } = conversation.hear()? else {
            return Err(Trouble::Unexpected);
        };
        let mut all = conversation.take(listeners.len() + usize::from(admin.is_some()))?.into_iter();
        let listeners = listeners.into_iter().zip(all.by_ref()).collect();
        let admin = admin.zip(all.next());
        let known = match conversation.hear() {
            Ok(Line::Known) => Saved::decode(&conversation.hear_bytes(saved::MAX)?).map_err(Unknown::Broken),
            Ok(_) => return Err(Trouble::Unexpected),
            Err(Trouble::Gone) => Err(Unknown::Gone),
            Err(trouble) => return Err(trouble),
        };
        Ok((Sockets { listeners, admin, files }, known))
    }

    /// Everything is there: asks to be let. Afterwards this is the process that serves.
    ///
    /// # Errors
    /// If the other one goes on instead.
    pub fn ready(&mut self, taken: Taken) -> Result<Before, Trouble> {
        let conversation = &mut self.conversation;
        conversation.within(ANSWER);
        let Taken { listeners, admin } = taken;
        match conversation.say(&Line::Ready { listeners, admin }) {
            Ok(()) | Err(Trouble::Gone) => {} // What it has said before it went can still be heard.
            Err(trouble) => return Err(trouble),
        }
        match conversation.hear() {
            Ok(Line::Over) => Ok(Before::Waits),
            Err(Trouble::Gone) => Ok(Before::IsGone),
            Ok(_) => Err(Trouble::Unexpected),
            Err(trouble) => Err(trouble),
        }
    }

    /// This one accepts, and its paths are its own: the other one may stop.
    ///
    /// # Errors
    /// If it does not hear that.
    pub fn done(mut self) -> Result<(), Trouble> {
        self.conversation.within(ANSWER);
        self.conversation.say(&Line::Done)
    }
}

/// How the process before is, when this one serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It wants to hear that this one accepts.
    Waits,
    /// It has died without a word.
    IsGone,
}

/// Why it is not known what the process before knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// It has died before it said so.
    Gone,
    /// It said something else.
    Broken(saved::Broken),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("that process has ended"),
            Self::Broken(why) => write!(f, "{why}"),
        }
    }
}

/// Why nobody took over.
#[derive(Debug)]
pub enum Trouble {
    /// The other process has ended.
    Gone,
    /// So it has, in the middle of what it said.
    CutOff,
    /// It was silent for too long.
    Silent,
    /// It said something else than it should have.
    Unexpected,
    /// It said that it does not want to, and why.
    Refused(String),
    /// It is of another user.
    Stranger(u32),
    /// More was said than is listened to.
    TooLong,
    /// The system refused something.
    Io(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the other process has ended, or has hung up"),
            Self::CutOff => f.write_str("the other process has hung up in the middle of what it said"),
            Self::Silent => f.write_str("the other process was silent for too long"),
            Self::Unexpected => f.write_str("the other process said something else than it should have"),
            Self::Refused(why) => write!(f, "the other process does not want to: {why}"),
            Self::Stranger(uid) => write!(f, "the other process is of another user ({uid})"),
            Self::TooLong => f.write_str("the other process said more than is listened to"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match error.kind() {
            UnexpectedEof | BrokenPipe | ConnectionReset => Self::Gone,
            WouldBlock | TimedOut => Self::Silent,
            _ => Self::Io(error),
        }
    }
}

/// What two processes say to one another; each waits for the other only until then.
#[derive(Debug)]
struct Conversation {
    stream: StdStream,
    until: Instant,
}

impl Conversation {
    fn with(stream: UnixStream) -> Result<Self, Trouble> {
        let uid = stream.peer_cred()?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(Trouble::Stranger(uid));
        }
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Self { stream, until: Now::read().instant() })
    }

    /// What follows may take so long altogether.
    fn within(&mut self, patience: Duration) {
        self.until = Now::read().instant() + patience;
    }

    fn left(&self) -> Result<Option<Duration>, Trouble> {
        let left = self.until.saturating_duration_since(Now::read().instant());
        if left.is_zero() { Err(Trouble::Silent) } else { Ok(Some(left)) }
    }

    fn say(&mut self, line: &Line) -> Result<(), Trouble> {
        self.say_bytes(&serde_json::to_vec(line).map_err(io::Error::other)?)
    }

    fn hear(&mut self) -> Result<Line, Trouble> {
        let line = self.hear_bytes(LINE)?;
        match serde_json::from_slice(&line) {
            Ok(Line::Refused { why }) => Err(Trouble::Refused(why)),
            Ok(line) => Ok(line),
            Err(_) => Err(Trouble::Unexpected),
        }
    }

    fn say_bytes(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let len = u32::try_from(bytes.len()).map_err(|_| Trouble::TooLong)?;
        self.write(&len.to_be_bytes())?;
        self.write(bytes)
    }

    fn hear_bytes(&mut self, most: usize) -> Result<Vec<u8>, Trouble> {
        let mut len = [0; 4];
        self.read(&mut len)?;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if len > most {
            return Err(Trouble::TooLong);
        }
        let mut bytes = vec![0; len];
        match self.read(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(Trouble::Gone) => Err(Trouble::CutOff),
            Err(trouble) => Err(trouble),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(self.left()?)?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(Trouble::Gone),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(Trouble::Gone),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Copies of sockets, each lot of them with one byte: without any, nothing would be sent.
    fn give(&mut self, sockets: &[&OwnedFd]) -> Result<(), Trouble> {
        if sockets.len() > SOCKETS {
            return Err(Trouble::TooLong);
        }
        for lot in sockets.chunks(AT_ONCE) {
            self.stream.set_write_timeout(self.left()?)?;
            let lot = lot.iter().map(|socket| socket.as_fd()).collect::<Vec<_>>();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&lot)) {
                return Err(Trouble::TooLong);
            }
            let sent = sendmsg(&self.stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL);
            if sent.map_err(io::Error::from)? != 1 {
                return Err(Trouble::Gone);
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<Vec<OwnedFd>, Trouble> {
        if count > SOCKETS {
            return Err(Trouble::TooLong);
        }
        let mut all = Vec::new();
        while all.len() < count {
            self.stream.set_read_timeout(self.left()?)?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut bytes = [IoSliceMut::new(&mut byte)];
            let received = recvmsg(&self.stream, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC);
            if received.map_err(io::Error::from)?.bytes == 0 {
                return Err(Trouble::Gone);
            }
            let before = all.len();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(sockets) = message {
                    all.extend(sockets);
                }
            }
            if all.len() == before || all.len() > count {
                return Err(Trouble::Unexpected); // As also when this process may have no more files open.
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> [Conversation; 2] {
        let (one, other) = StdStream::pair().unwrap();
        let until = Now::read().instant() + ANSWER;
        [one, other].map(|stream| Conversation { stream, until })
    }

    #[test]
    fn as_many_sockets_arrive_as_are_sent_in_their_order() {
        let [mut one, mut other] = two();
        let sockets = (0..2 * AT_ONCE + 3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets = sockets.collect::<Vec<_>>();
        let sent = sockets.iter().map(|socket| socket.try_clone().unwrap().into()).collect::<Vec<OwnedFd>>();
        one.give(&sent.iter().collect::<Vec<_>>()).unwrap();
        one.say(&Line::Done).unwrap();
        let received = other.take(sent.len()).unwrap().into_iter().map(std::net::TcpListener::from);
        let [before, after] = [sockets, received.collect()]
            .map(|all| all.iter().map(|socket| socket.local_addr().unwrap()).collect::<Vec<_>>());
        assert_eq!(before, after);
        assert!(matches!(other.hear(), Ok(Line::Done)), "and what is said behind them");
    }

    #[test]
    fn fewer_sockets_than_were_said_and_too_many_are_refused() {
        let [mut one, mut other] = two();
        one.say(&Line::Done).unwrap();
        assert!(matches!(other.take(1), Err(Trouble::Unexpected)), "a byte without any");
        assert!(matches!(other.take(SOCKETS + 1), Err(Trouble::TooLong)));
        let socket = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(matches!(one.give(&vec![&socket; SOCKETS + 1]), Err(Trouble::TooLong)));
    }

    #[test]
    fn nobody_is_waited_for_longer_than_was_said() {
        let [mut one, other] = two();
        one.within(Duration::from_millis(1));
        assert!(matches!(one.hear(), Err(Trouble::Silent)));
        one.within(Duration::ZERO);
        assert!(matches!(one.say(&Line::Over), Err(Trouble::Silent)));
        assert!(matches!(one.take(1), Err(Trouble::Silent)));
        one.within(ANSWER);
        drop(other);
        assert!(matches!(one.hear(), Err(Trouble::Gone)));
        assert!(matches!(one.say(&Line::Over), Err(Trouble::Gone)));
    }

    /// Which of the two it is decides whether one serves, none or both.
    #[test]
    fn who_has_died_is_told_from_who_refuses() {
        let upgrade = |conversation| Upgrade { conversation, pid: 1, secret: KeySecret::in_force() };
        let ready = |upgrade: &mut Upgrade| upgrade.ready(Taken::default());
        let [one, other] = two();
        drop(one);
        assert!(matches!(ready(&mut upgrade(other)), Ok(Before::IsGone)));
        let [one, other] = two();
        let (done, _) = oneshot::channel();
        drop(Taker { conversation: one, pid: 1, has_taken: false, _done: done });
        assert!(matches!(ready(&mut upgrade(other)), Err(Trouble::Refused(_))), "as also when it panics");
        let [mut one, other] = two();
        one.say(&Line::Over).unwrap();
        assert!(matches!(ready(&mut upgrade(other)), Ok(Before::Waits)));
        let [mut one, other] = two();
        one.write(&9_u32.to_be_bytes()).unwrap();
        drop(one);
        assert!(matches!(ready(&mut upgrade(other)), Err(Trouble::CutOff)), "it may live");
    }

    #[test]
    fn sockets_are_there_also_if_the_other_one_dies_before_it_says_what_it_knows() {
        let socket = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let name = "127.0.0.1:80".parse().unwrap();
        let sockets = Line::Sockets { listeners: vec![name], admin: None, files: vec![(1, 2)] };
        for refuses in [false, true] {
            let [mut one, other] = two();
            one.say(&sockets).unwrap();
            one.give(&[&socket]).unwrap();
            if refuses {
                one.say(&Line::Refused { why: String::new() }).unwrap();
            }
            one.stream.shutdown(Shutdown::Write).unwrap();
            let mut upgrade = Upgrade { conversation: other, pid: 1, secret: KeySecret::in_force() };
            match upgrade.take() {
                Ok((taken, known)) => {
                    assert_eq!((taken.listeners.len(), taken.files), (1, vec![(1, 2)]));
                    assert!(!refuses && known.is_err_and(|why| why == Unknown::Gone));
                }
                Err(trouble) => assert!(refuses && matches!(trouble, Trouble::Refused(_)), "{trouble}"),
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let [mut one, mut other] = two();
        one.say_bytes(&[b' '; 100]).unwrap();
        assert!(matches!(other.hear_bytes(99), Err(Trouble::TooLong)));
    }
}
