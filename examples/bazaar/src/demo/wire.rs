//! The wire to a service: what is between it and whoever asks it, and the weather there.
//!
//! # Bounds
//! [`CONNECTIONS`] at a time; further ones wait to be accepted. What is said is carried in pieces of at most 16 KiB.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// How many connections are carried at a time.
pub const CONNECTIONS: usize = 1024;

/// How many bytes are carried at once: as the module says.
const PIECE: usize = 16 * 1024;

/// How long a connection to the service may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The weather on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// Everything passes, each piece that much later.
    Late(Duration),
    /// Nothing passes, and nobody is told; what was connected is of no use afterwards.
    Flooded,
}

/// A wire. Dropped, it is cut.
#[derive(Debug)]
pub struct Wire {
    /// Where it begins.
    pub at: SocketAddr,
    weather: watch::Sender<Weather>,
    _carrying: JoinSet<()>,
}

impl Wire {
    /// From there to there.
    ///
    /// # Errors
    /// If nobody can listen at `from`.
    pub async fn lay(from: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(from).await?;
        let (weather, seen) = watch::channel(Weather::Fair);
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(listener, to, seen));
        Ok(Self { at: from, weather, _carrying: carrying })
    }

    /// Changes the weather.
    pub fn weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(listener: TcpListener, to: SocketAddr, weather: watch::Receiver<Weather>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let weather = weather.clone();
                connections.spawn(async move {
                    between(client, to, weather).await;
                    drop(place);
                });
            }
            Err(_) => sleep(Duration::from_millis(50)).await, // No sockets left: some come back.
        }
    }
}

/// Carries both ways until one side ends, or a flood.
async fn between(client: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    if !is_dry(&mut weather).await {
        return;
    }
    let Ok(Ok(service)) = timeout(CONNECT, TcpStream::connect(to)).await else { return };
    _ = (client.set_nodelay(true), service.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_service, to_service) = service.into_split();
    tokio::select! {
        () = one_way(from_client, to_service, weather.clone()) => {}
        () = one_way(from_service, to_client, weather) => {}
    }
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if !is_dry(&mut weather).await || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// Waits as long as the weather wants it; whether the connection is still of use then.
async fn is_dry(weather: &mut watch::Receiver<Weather>) -> bool {
    let now = *weather.borrow_and_update();
    match now {
        Weather::Fair => true,
        Weather::Late(delay) => {
            sleep(delay).await;
            true
        }
        Weather::Flooded => {
            _ = weather.wait_for(|it| *it != Weather::Flooded).await;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that says everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        at
    }

    async fn say(stream: &mut TcpStream) -> bool {
        stream.write_all(b"a").await.is_ok() && stream.read_u8().await.is_ok_and(|it| it == b'a')
    }

    #[tokio::test]
    async fn in_a_flood_nothing_passes_and_what_was_connected_is_lost() {
        let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let wire = Wire::lay(nowhere, echo().await).await.unwrap();
        let mut stream = TcpStream::connect(wire.at).await.unwrap();
        assert!(say(&mut stream).await);
        wire.weather(Weather::Flooded);
        let mut late = TcpStream::connect(wire.at).await.unwrap();
        timeout(Duration::from_millis(200), say(&mut stream)).await.unwrap_err();
        wire.weather(Weather::Late(Duration::from_millis(1)));
        assert!(!say(&mut stream).await && !say(&mut late).await);
        let mut again = TcpStream::connect(wire.at).await.unwrap();
        assert!(say(&mut again).await);
    }
}
