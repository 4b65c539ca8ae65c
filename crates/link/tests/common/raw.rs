//! A peer that writes the mux's frames by hand, so that it can write wrong ones. It keeps no state: what it sends is
//! what the test says.

use bytes::{Buf, Bytes, BytesMut};
use reachback_link::{Inbound, Side, Substream, Transport};
use reachback_wire::{Frame, FrameDecoder, FrameType, Open, Opened, Stage, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{End, Settings, across, end, soon, to};

pub const DATA: u8 = 0;
pub const WINDOW: u8 = 1;
pub const PING: u8 = 2;
pub const GO_AWAY: u8 = 3;

pub const SYN: u16 = 1;
pub const ACK: u16 = 2;
pub const FIN: u16 = 4;
pub const RST: u16 = 8;

/// One frame of the mux, as read.
#[derive(Debug, Clone)]
pub struct MuxFrame {
    pub kind: u8,
    pub flags: u16,
    pub stream: u32,
    /// Length, credit, ping value or go-away code.
    pub value: u32,
    pub body: Vec<u8>,
}

/// The twelve bytes in front of a frame.
pub fn header(kind: u8, flags: u16, stream: u32, value: u32) -> Vec<u8> {
    [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &value.to_be_bytes()].concat()
}

/// A whole data frame.
pub fn data(flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
    [&header(DATA, flags, stream, body.len() as u32), body].concat()
}

/// The peer.
pub struct RawPeer {
    pub io: Transport,
    pub side: Side,
    next: u32,
    read: BytesMut,
}

impl RawPeer {
    /// A peer that has not said anything yet.
    pub fn new(io: Transport, side: Side) -> Self {
        let next = if side == Side::Dialer { 1 } else { 2 };
        Self { io, side, next, read: BytesMut::new() }
    }

    /// A peer of this side with a session of ours across a pipe in memory, control standing.
    pub async fn with_session(side: Side) -> (Self, End) {
        let (near, far) = Transport::memory_pair(64 * 1024);
        let ours = end(far, across(side), &Settings::default());
        let mut peer = Self::new(near, side);
        peer.control().await;
        (peer, ours)
    }

    /// Opens control, or takes it.
    pub async fn control(&mut self) {
        match self.side {
            Side::Dialer => {
                let id = self.open(&Open::control()).await;
                assert_eq!((id, self.reply(id).await.kind), (1, FrameType::Opened));
            }
            Side::Acceptor => {
                let opened = self.recv_until(|frame| frame.kind == DATA && frame.stream == 1).await;
                assert_eq!(opened.flags & SYN, SYN);
                self.send(&data(ACK, 1, &frame::encode(FrameType::Opened, &Opened::default()))).await;
            }
        }
    }

    /// The id of the next stream this side opens.
    pub fn next_id(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        id
    }

    /// Opens a stream with this header.
    pub async fn open(&mut self, open: &Open) -> u32 {
        let id = self.next_id();
        self.send(&data(SYN, id, &frame::encode(FrameType::Open, open))).await;
        id
    }

    /// Opens a substream that our session serves.
    pub async fn substream(&mut self, ours: &mut End) -> (u32, Substream) {
        let id = self.open(&to("s")).await;
        let mut inbound: Inbound = soon("the raw open", ours.incoming.next()).await.unwrap();
        inbound.open().await.unwrap();
        let (substream, ()) = inbound.answer(async { Ok(()) }).await.unwrap();
        assert_eq!(self.reply(id).await.kind, FrameType::Opened);
        (id, substream)
    }

    /// Sends bytes as they are. A session that has ended meanwhile is no failure: what it says of itself counts.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        soon("a session that reads", async {
            self.io.write_all(bytes).await.is_ok() && self.io.flush().await.is_ok()
        })
        .await
    }

    /// The next frame; `None` at the end of the connection. Cancel-safe.
    pub async fn recv(&mut self) -> Option<MuxFrame> {
        loop {
            if let Some(frame) = self.parse() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    fn parse(&mut self) -> Option<MuxFrame> {
        let [version, kind, f0, f1, s0, s1, s2, s3, v0, v1, v2, v3] = *self.read.first_chunk()?;
        assert_eq!(version, 0);
        let value = u32::from_be_bytes([v0, v1, v2, v3]);
        let len = if kind == DATA { value as usize } else { 0 };
        if self.read.len() < 12 + len {
            return None;
        }
        self.read.advance(12);
        let body = self.read.split_to(len).to_vec();
        let (flags, stream) = (u16::from_be_bytes([f0, f1]), u32::from_be_bytes([s0, s1, s2, s3]));
        Some(MuxFrame { kind, flags, stream, value, body })
    }

    /// The first frame that is so, passing over all others.
    pub async fn recv_until(&mut self, is: impl Fn(&MuxFrame) -> bool) -> MuxFrame {
        soon("a frame of the session", async {
            loop {
                let frame = self.recv().await.expect("the session lives");
                if is(&frame) {
                    return frame;
                }
            }
        })
        .await
    }

    /// The final answer to an open: `Opened` or `Refused`.
    pub async fn reply(&mut self, id: u32) -> Frame {
        let mut decoder = FrameDecoder::new(Stage::OpenReply);
        loop {
            match decoder.next().expect("a reply") {
                Some(frame) if frame.kind == FrameType::Accepted => {}
                Some(frame) => return frame,
                None => {
                    let piece = self.recv_until(|frame| frame.kind == DATA && frame.stream == id).await;
                    decoder.push(Bytes::from(piece.body));
                }
            }
        }
    }
}
