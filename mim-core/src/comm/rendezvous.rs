//! Rendezvous of the processes over TCP.
//!
//! Each process connects to rank 0, sends its rank, and receives a secret: NCCL's unique id. The connections stay
//! open (`hosts`).

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Length of the secret in bytes.
pub(super) const LENGTH: usize = 128;
/// First bytes from a process, to tell strangers apart.
const GREETING: [u8; 8] = *b"mim-join";
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Time limit for one message from a connected process.
const MESSAGE: Duration = Duration::from_secs(10);

/// Rank 0: sends `secret` to the `world - 1` others and returns their connections, from rank 1 on.
///
/// # Errors
///
/// [`Error::Group`] if not all join in time, or if two send the same rank or another number of processes.
pub(super) fn serve(
    listener: &TcpListener,
    world: usize,
    secret: &[u8; LENGTH],
    patience: Duration,
) -> Result<Vec<TcpStream>> {
    let failed = |error: std::io::Error| {
        Error::group(
            format!("rank 0 cannot listen: {error}"),
            "check the network of this machine",
        )
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let end = Instant::now() + patience;
    // From rank 1 on.
    let mut found: Vec<Option<TcpStream>> = (1..world).map(|_| None).collect();
    while found.iter().any(Option::is_none) {
        match listener.accept() {
            // Do not wait for strangers or closed connections.
            Ok((mut stream, _)) => {
                let Ok((rank, its_world)) = hear(&mut stream) else {
                    continue;
                };
                let place = rank.checked_sub(1).and_then(|place| found.get_mut(place));
                let (true, Some(place @ None)) = (its_world == world, place) else {
                    return Err(Error::group(
                        format!(
                            "a process reports rank {rank} of {its_world}, which is not a missing rank of {world}"
                        ),
                        "give every process its own rank and the same number of processes",
                    ));
                };
                if stream.write_all(secret).is_ok() {
                    *place = Some(stream);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() > end {
                    let places = found.iter().zip(1..);
                    let missing: Vec<String> = places
                        .filter(|(place, _)| place.is_none())
                        .map(|(_, rank): (_, usize)| rank.to_string())
                        .collect();
                    return Err(Error::group(
                        format!(
                            "rank {} did not join within {} s",
                            missing.join(", "),
                            patience.as_secs()
                        ),
                        "check that it was started, and that its machine reaches rank 0 at MASTER_ADDR and MASTER_PORT",
                    ));
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Reads the message of a connected process: its rank, and its number of processes.
fn hear(stream: &mut TcpStream) -> std::io::Result<(usize, usize)> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(MESSAGE))?;
    stream.set_write_timeout(Some(MESSAGE))?;
    let mut words = [[0u8; 8]; 3];
    for word in &mut words {
        stream.read_exact(word)?;
    }
    let [greeting, rank, world] = words;
    if greeting != GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    let number = |word| usize::try_from(u64::from_le_bytes(word)).unwrap_or(usize::MAX);
    Ok((number(rank), number(world)))
}

/// Other ranks: gets the secret from rank 0 at `address` and returns it with the connection. Rank 0 may start later
/// than this process.
///
/// # Errors
///
/// [`Error::Group`] if rank 0 does not answer in time.
pub(super) fn ask(
    address: &str,
    (rank, world): (usize, usize),
    patience: Duration,
) -> Result<([u8; LENGTH], TcpStream)> {
    let end = Instant::now() + patience;
    loop {
        let error = match try_to_ask(address, (rank, world), end) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if Instant::now() > end {
            return Err(Error::group(
                format!(
                    "rank {rank} got no answer from rank 0 at {address} within {} s ({error})",
                    patience.as_secs()
                ),
                "check that rank 0 runs, and that this machine reaches it at MASTER_ADDR and MASTER_PORT",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

fn try_to_ask(
    address: &str,
    (rank, world): (usize, usize),
    end: Instant,
) -> std::io::Result<([u8; LENGTH], TcpStream)> {
    let left = || {
        end.saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1))
    };
    let mut failure = std::io::Error::from(ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left()) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(left()))?;
                stream.write_all(&GREETING)?;
                for number in [rank, world] {
                    stream.write_all(&(number as u64).to_le_bytes())?;
                }
                let mut secret = [0; LENGTH];
                stream.read_exact(&mut secret)?;
                return Ok((secret, stream));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; LENGTH] = [7; LENGTH];
    const LONG: Duration = Duration::from_secs(300);
    const SHORT: Duration = Duration::from_millis(300);

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[test]
    fn all_ranks_get_the_secret_despite_strangers_and_a_late_rank_0() {
        let (first, address) = listener();
        // Nothing listens for a while.
        drop(first);
        std::thread::scope(|scope| {
            let asking: Vec<_> = (1..4)
                .map(|rank| {
                    let address = &address;
                    scope.spawn(move || ask(address, (rank, 4), LONG))
                })
                .collect();
            std::thread::sleep(SHORT);
            let listener = TcpListener::bind(&address).unwrap();
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger
                .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n")
                .unwrap();
            serve(&listener, 4, &SECRET, LONG).unwrap();
            for asking in asking {
                assert_eq!(asking.join().unwrap().unwrap().0, SECRET);
            }
        });
    }

    #[test]
    fn missing_ranks_are_named() {
        let (listener, address) = listener();
        std::thread::scope(|scope| {
            scope.spawn(|| ask(&address, (1, 3), LONG));
            let error = serve(&listener, 3, &SECRET, SHORT).unwrap_err().to_string();
            assert!(error.contains("rank 2 did not join"), "{error}");
        });
        drop(listener);
        let error = ask(&address, (2, 3), SHORT).unwrap_err().to_string();
        assert!(
            error.contains("rank 2 got no answer from rank 0"),
            "{error}"
        );
    }

    #[test]
    fn ranks_must_be_unique_and_counts_must_match() {
        for (claim, world) in [((3, 3), 3), ((1, 4), 3), ((0, 3), 3)] {
            let (listener, address) = listener();
            std::thread::scope(|scope| {
                scope.spawn(move || ask(&address, claim, SHORT));
                let error = serve(&listener, world, &SECRET, LONG)
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("its own rank"), "{error}");
                drop(listener);
            });
        }
    }
}
