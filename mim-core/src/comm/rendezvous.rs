//! How processes find each other: over TCP.
//!
//! Each process connects to rank 0, sends its rank, and receives NCCL's unique id. The connections stay open (`hosts`).
//!
//! Both sides prove that they know the same `MIM_GROUP_SECRET` (empty if unset): each hashes it with a nonce of the
//! other side. Later messages are not encrypted.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Length of NCCL's id in bytes.
pub(super) const LENGTH: usize = 128;
/// First bytes from a process, to tell strangers apart.
const GREETING: [u8; 8] = *b"mim-joi2";
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// Time limit for the whole greeting of a process.
const MESSAGE: Duration = Duration::from_secs(10);
/// Open connections that are accepted at a time, besides those of the processes.
const STRANGERS: usize = 64;
/// Rejected claims that an error names.
const NAMED: usize = 5;

/// A nonce or a hash.
type Word = [u8; 32];

/// The rank that a process claims, and its number of processes.
type Claim = (usize, usize);

/// The shared secret of a group.
#[derive(Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// `MIM_GROUP_SECRET`, or nothing.
    pub(super) fn from_env() -> Self {
        let secret = std::env::var_os("MIM_GROUP_SECRET").unwrap_or_default();
        Self(secret.into_encoded_bytes())
    }

    /// Proves knowledge of the key: `role` is the side that sends the proof, `drawn` the nonce of the other side.
    fn proof(&self, role: u8, drawn: &Word, (rank, world): Claim) -> Word {
        let key = Sha256::digest(&self.0);
        let hash = Sha256::new().chain_update(key).chain_update([role]);
        let hash = hash.chain_update(drawn).chain_update(bytes(rank));
        hash.chain_update(bytes(world)).finalize().into()
    }
}

/// Rank 0: sends `secret` to the `world - 1` others and returns the connections to them, from rank 1 on.
///
/// # Errors
///
/// [`Error::Group`] if not all join in time; it names rejected claims.
pub(super) fn serve(
    listener: &TcpListener,
    world: usize,
    (secret, key): (&[u8; LENGTH], &Key),
    patience: Duration,
) -> Result<Vec<TcpStream>> {
    listener
        .set_nonblocking(true)
        .map_err(|error| failed(&error))?;
    let end = Instant::now() + patience;
    // From rank 1 on.
    let mut found: Vec<Option<TcpStream>> = (1..world).map(|_| None).collect();
    let (mut odd, mut heard) = (Vec::new(), 0);
    let (sender, receiver) = mpsc::channel();
    let key = Arc::new(key.clone());
    while found.iter().any(Option::is_none) {
        while let Ok(said) = receiver.try_recv() {
            heard -= 1;
            let Some((claim, stream)) = said else {
                continue;
            };
            if let Err(what) = seat(&mut found, world, secret, (claim, stream)) {
                tracing::warn!("{what}");
                odd.push(what);
            }
        }
        if Instant::now() > end {
            return Err(missing(&found, &odd, patience));
        }
        match listener.accept() {
            Ok((mut stream, _)) if heard < world + STRANGERS => {
                heard += 1;
                let (sender, key) = (sender.clone(), key.clone());
                let end = end.min(Instant::now() + MESSAGE);
                // A silent stranger blocks only this thread.
                std::thread::spawn(move || {
                    let said = hear(&mut stream, &key, end);
                    // The receiver is gone if all have joined.
                    let _ = sender.send(said.ok().map(|claim| (claim, stream)));
                });
            }
            // Too many connections.
            Ok(_) => {}
            Err(error) if passes(error.kind()) => std::thread::sleep(PAUSE),
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn failed(error: &std::io::Error) -> Error {
    let fix = "check the network of the machine";
    Error::group(format!("rank 0 cannot listen: {error}"), fix)
}

fn passes(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
    )
}

/// Gives a process its place, or returns the reason why not.
fn seat(
    found: &mut [Option<TcpStream>],
    world: usize,
    secret: &[u8; LENGTH],
    ((rank, its_world), mut stream): (Claim, TcpStream),
) -> Result<(), String> {
    let place = rank.checked_sub(1).and_then(|place| found.get_mut(place));
    let (true, Some(place @ None)) = (its_world == world, place) else {
        return Err(format!(
            "a process reports rank {rank} of {its_world}, which is not a missing rank of {world}"
        ));
    };
    // If it has disconnected, it can join again.
    if stream.write_all(secret).is_ok() {
        *place = Some(stream);
    }
    Ok(())
}

fn missing(found: &[Option<TcpStream>], odd: &[String], patience: Duration) -> Error {
    let places = found.iter().zip(1..);
    let missing: Vec<String> = places
        .filter(|(place, _)| place.is_none())
        .map(|(_, rank): (_, usize)| rank.to_string())
        .collect();
    let odd: String = odd
        .iter()
        .take(NAMED)
        .map(|what| format!("; {what}"))
        .collect();
    Error::group(
        format!(
            "rank {} did not join within {} s{odd}",
            missing.join(", "),
            patience.as_secs()
        ),
        "check that it was started, that MASTER_ADDR and MASTER_PORT lead to rank 0 from its machine, and that every process \
         has a rank of its own, the same number of processes and the same MIM_GROUP_SECRET",
    )
}

/// Reads the claim of a connected process, if it knows the key.
fn hear(stream: &mut TcpStream, key: &Key, end: Instant) -> std::io::Result<Claim> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(MESSAGE))?;
    let words = [(); 3].map(|()| read::<8>(stream, end));
    let [greeting, rank, world] = words;
    if greeting? != GREETING {
        return Err(ErrorKind::InvalidData.into());
    }
    let number = |word| usize::try_from(u64::from_le_bytes(word)).unwrap_or(usize::MAX);
    let claim = (number(rank?), number(world?));
    let theirs: Word = read(stream, end)?;
    let own = draw()?;
    stream.write_all(&[own, key.proof(0, &theirs, claim)].concat())?;
    let proof: Word = read(stream, end)?;
    match proof == key.proof(1, &own, claim) {
        true => Ok(claim),
        false => Err(ErrorKind::PermissionDenied.into()),
    }
}

/// Reads `N` bytes until `end`, in as many pieces as they arrive.
fn read<const N: usize>(stream: &mut TcpStream, end: Instant) -> std::io::Result<[u8; N]> {
    let (mut bytes, mut have) = ([0; N], 0);
    while have < N {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[have..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
    }
    Ok(bytes)
}

fn draw() -> std::io::Result<Word> {
    let mut word = [0; 32];
    getrandom::fill(&mut word).map_err(std::io::Error::other)?;
    Ok(word)
}

fn bytes(number: usize) -> [u8; 8] {
    (number as u64).to_le_bytes()
}

/// The others' part: gets the secret from rank 0 at `address`, which may start later than this process, and the
/// connection to it.
///
/// # Errors
///
/// [`Error::Group`] if rank 0 does not answer in time.
pub(super) fn ask(
    address: &str,
    claim: Claim,
    key: &Key,
    patience: Duration,
) -> Result<([u8; LENGTH], TcpStream)> {
    let end = Instant::now() + patience;
    loop {
        let error = match try_to_ask(address, claim, key, end) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if Instant::now() > end {
            let rank = claim.0;
            return Err(Error::group(
                format!(
                    "rank {rank} got no answer from rank 0 at {address} within {} s ({error})",
                    patience.as_secs()
                ),
                "check that rank 0 runs, that MASTER_ADDR and MASTER_PORT lead to it from this machine, and that \
                 MIM_GROUP_SECRET is the same",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

fn try_to_ask(
    address: &str,
    claim: Claim,
    key: &Key,
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
                let own = draw()?;
                stream.write_all(&GREETING)?;
                stream.write_all(&[bytes(claim.0), bytes(claim.1)].concat())?;
                stream.write_all(&own)?;
                let theirs: Word = read(&mut stream, end)?;
                let proof: Word = read(&mut stream, end)?;
                if proof != key.proof(0, &own, claim) {
                    let what =
                        "another program answers there, or its MIM_GROUP_SECRET is different";
                    return Err(std::io::Error::new(ErrorKind::PermissionDenied, what));
                }
                stream.write_all(&key.proof(1, &theirs, claim))?;
                return Ok((read(&mut stream, end)?, stream));
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
    const KEY: Key = Key(Vec::new());
    const LONG: Duration = Duration::from_secs(300);
    const SHORT: Duration = Duration::from_millis(300);

    fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    #[test]
    fn everyone_gets_the_secret_even_beside_strangers_and_before_rank_0_is_there() {
        let (first, address) = listener();
        // Nobody listens for a while.
        drop(first);
        std::thread::scope(|scope| {
            let asking: Vec<_> = (1..4)
                .map(|rank| {
                    let address = &address;
                    scope.spawn(move || ask(address, (rank, 4), &KEY, LONG))
                })
                .collect();
            std::thread::sleep(SHORT);
            let listener = TcpListener::bind(&address).unwrap();
            let mut stranger = TcpStream::connect(&address).unwrap();
            stranger
                .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n")
                .unwrap();
            // It sends nothing, and delays nobody.
            let silent = TcpStream::connect(&address).unwrap();
            let start = Instant::now();
            serve(&listener, 4, (&SECRET, &KEY), LONG).unwrap();
            for asking in asking {
                assert_eq!(asking.join().unwrap().unwrap().0, SECRET);
            }
            drop((stranger, silent));
            assert!(start.elapsed() < MESSAGE);
        });
    }

    #[test]
    fn who_does_not_come_is_named() {
        let (listener, address) = listener();
        std::thread::scope(|scope| {
            scope.spawn(|| ask(&address, (1, 3), &KEY, LONG));
            let error = serve(&listener, 3, (&SECRET, &KEY), SHORT)
                .unwrap_err()
                .to_string();
            assert!(error.contains("rank 2 did not join"), "{error}");
        });
        drop(listener);
        let error = ask(&address, (2, 3), &KEY, SHORT).unwrap_err().to_string();
        assert!(
            error.contains("rank 2 got no answer from rank 0"),
            "{error}"
        );
    }

    #[test]
    fn claims_that_do_not_fit_are_dropped_and_named() {
        let (listener, address) = listener();
        std::thread::scope(|scope| {
            let claims = [(3, 3), (1, 4), (0, 3)];
            for claim in claims {
                let address = &address;
                scope.spawn(move || ask(address, claim, &KEY, SHORT));
            }
            let rightful = scope.spawn(|| ask(&address, (1, 3), &KEY, LONG));
            let error = serve(&listener, 3, (&SECRET, &KEY), 2 * SHORT);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("rank 2 did not join"), "{error}");
            for (rank, world) in claims {
                let claim = format!("reports rank {rank} of {world},");
                assert!(error.contains(&claim), "{error}");
            }
            assert!(rightful.join().unwrap().is_ok());
        });
    }

    #[test]
    fn processes_without_the_secret_cannot_join() {
        let (listener, address) = listener();
        let key = |text: &str| Key(text.as_bytes().to_vec());
        std::thread::scope(|scope| {
            let stranger = scope.spawn(|| ask(&address, (1, 2), &key("wrong"), SHORT));
            let member = scope.spawn(|| ask(&address, (1, 2), &key("right"), LONG));
            serve(&listener, 2, (&SECRET, &key("right")), LONG).unwrap();
            assert!(member.join().unwrap().is_ok());
            assert!(stranger.join().unwrap().is_err());
        });
    }
}
