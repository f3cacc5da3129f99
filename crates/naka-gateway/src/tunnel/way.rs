//! One way of a tunnel.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{PIECE, frames::Frames};

/// Carries bytes from one end to the other, a piece at a time. A piece is read onto the stack, and what is not taken at once is kept: so a
/// silent tunnel costs no buffer.
#[derive(Debug)]
pub(super) struct Way {
    /// Read, and still to be sent.
    held: Bytes,
    state: State,
    has_unflushed: bool,
    moved: u64,
    last_moved: Instant,
    frames: Option<Frames>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The end was read, and is to be passed on.
    Ending,
    Over,
    /// The other end takes nothing more.
    Deaf,
}

/// How far a way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Goes,
    /// Its end was passed on.
    Over,
    /// Whoever it leads to takes nothing more.
    Deaf,
    /// Whoever it comes from broke off.
    Broken,
}

impl Way {
    pub(super) fn new(frames: Option<Frames>) -> Self {
        Self {
            held: Bytes::new(),
            state: State::Open,
            has_unflushed: false,
            moved: 0,
            last_moved: Instant::now(),
            frames,
        }
    }

    /// With what has come already.
    pub(super) fn beginning_with(early: Bytes) -> Self {
        Self { held: early, ..Self::new(None) }
    }

    /// Bytes that the other end has taken.
    pub(super) const fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) const fn last_moved(&self) -> Instant {
        self.last_moved
    }

    /// What there is to say to whoever it leads to when the tunnel is ended, if that can be said between two frames.
    pub(super) fn farewell(&self) -> Option<&'static [u8]> {
        let is_open = self.state == State::Open && self.held.is_empty();
        self.frames.as_ref().filter(|frames| is_open && frames.is_between()).map(|_| Frames::GOING_AWAY)
    }

    /// Goes on as far as it can.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Step
    where
        R: AsyncRead + ?Sized,
        W: AsyncWrite + ?Sized,
    {
        loop {
            match self.state {
                State::Open => {}
                State::Ending => match to.as_mut().poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => self.state = State::Over,
                    Poll::Ready(Err(_)) => self.state = State::Deaf,
                    Poll::Pending => return Step::Goes,
                },
                State::Over => return Step::Over,
                State::Deaf => return Step::Deaf,
            }
            if self.state != State::Open {
                continue;
            }
            match self.poll_piece(cx, from.as_mut(), to.as_mut()) {
                Poll::Ready(Ok(next)) => self.state = next,
                Poll::Ready(Err(_)) => return Step::Broken,
                Poll::Pending => return Step::Goes,
            }
        }
    }

    /// Sends what is held, and then a piece that is read, as far as it is taken.
    fn poll_piece<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Poll<io::Result<State>>
    where
        R: AsyncRead + ?Sized,
        W: AsyncWrite + ?Sized,
    {
        while !self.held.is_empty() {
            let held = self.held.clone();
            match ready!(self.poll_send(cx, to.as_mut(), &held)) {
                Some(count) => drop(self.held.split_to(count)),
                None => return Poll::Ready(Ok(State::Deaf)),
            }
        }
        let mut piece = [const { MaybeUninit::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        let Poll::Ready(read) = from.poll_read(cx, &mut piece) else {
            // While there is nothing more to say, what was said shall arrive.
            if self.has_unflushed && to.as_mut().poll_flush(cx).is_ready() {
                self.has_unflushed = false;
            }
            return Poll::Pending;
        };
        read?;
        let mut rest = piece.filled();
        if rest.is_empty() {
            return Poll::Ready(Ok(State::Ending));
        }
        while !rest.is_empty() {
            match self.poll_send(cx, to.as_mut(), rest) {
                Poll::Ready(Some(count)) => rest = &rest[count..],
                Poll::Ready(None) => return Poll::Ready(Ok(State::Deaf)),
                Poll::Pending => {
                    self.held = Bytes::copy_from_slice(rest);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(State::Open))
    }

    /// How many of these bytes were taken; `None` if none will be any more.
    fn poll_send<W: AsyncWrite + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        to: Pin<&mut W>,
        bytes: &[u8],
    ) -> Poll<Option<usize>> {
        let Ok(count @ 1..) = ready!(to.poll_write(cx, bytes)) else { return Poll::Ready(None) };
        if let Some(frames) = &mut self.frames {
            frames.passed(&bytes[..count]);
        }
        self.moved = self.moved.wrapping_add(u64::try_from(count).unwrap_or(u64::MAX));
        (self.last_moved, self.has_unflushed) = (Instant::now(), true);
        Poll::Ready(Some(count))
    }
}
