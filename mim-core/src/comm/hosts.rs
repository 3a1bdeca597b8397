//! Small collectives between hosts, over the connections of the rendezvous.
//!
//! Flags and counts that the hosts need (which gradients exist, whether the run ends) would wait for all queued
//! GPU work if they went through NCCL.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result};

/// The connections of one process.
#[derive(Debug)]
pub(super) enum Hosts {
    /// Rank 0: connections to the others, from rank 1 on.
    First(Mutex<Vec<TcpStream>>),
    /// Any other rank: the connection to rank 0.
    Other(Mutex<TcpStream>),
}

impl Hosts {
    /// The connections of rank 0.
    pub(super) fn first(streams: Vec<TcpStream>) -> io::Result<Self> {
        streams.iter().try_for_each(patient)?;
        Ok(Self::First(Mutex::new(streams)))
    }

    /// The connection of another rank.
    pub(super) fn other(stream: TcpStream) -> io::Result<Self> {
        patient(&stream)?;
        Ok(Self::Other(Mutex::new(stream)))
    }

    /// Sums the numbers of all processes; the result is bit-identical on each.
    pub(super) fn sum(&self, own: Vec<f32>) -> Result<Vec<f32>> {
        self.combined(own, |all| {
            let mut all = all.into_iter();
            let first = all.next().unwrap_or_default();
            all.fold(first, |mut sums, said| {
                sums.iter_mut().zip(said).for_each(|(sum, x)| *sum += x);
                sums
            })
        })
    }

    /// Concatenates the numbers of all processes, by rank.
    pub(super) fn gather(&self, own: Vec<f32>) -> Result<Vec<f32>> {
        self.combined(own, |all| all.concat())
    }

    /// Rank 0 combines the numbers of all processes and sends the result to them.
    fn combined(
        &self,
        own: Vec<f32>,
        combine: impl FnOnce(Vec<Vec<f32>>) -> Vec<f32>,
    ) -> Result<Vec<f32>> {
        match self {
            Self::First(streams) => {
                let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                let mut all = vec![own];
                for (stream, rank) in streams.iter_mut().zip(1..) {
                    let said = hear(stream).map_err(|error| gone(rank, &error))?;
                    if said.len() != all[0].len() {
                        return Err(Error::group(
                            format!("rank {rank} called another collective than rank 0"),
                            "start all processes with the same options, files and version of mim",
                        ));
                    }
                    all.push(said);
                }
                let found = combine(all);
                for (stream, rank) in streams.iter_mut().zip(1..) {
                    say(stream, &found).map_err(|error| gone(rank, &error))?;
                }
                Ok(found)
            }
            Self::Other(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                say(&mut stream, &own)
                    .and_then(|()| hear(&mut stream))
                    .map_err(|error| gone(0, &error))
            }
        }
    }
}

/// Sends messages at once, and waits for answers without a time limit: another process may be reading data.
fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}

/// Bytes of a message at most. Gradients go through NCCL, so messages are short.
const LONGEST: u64 = 1 << 30;

/// Sends a message: a count, then the numbers.
fn say(stream: &mut TcpStream, numbers: &[f32]) -> io::Result<()> {
    let mut message = (numbers.len() as u64).to_le_bytes().to_vec();
    message.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
    stream.write_all(&message)
}

fn hear(stream: &mut TcpStream) -> io::Result<Vec<f32>> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let mut bytes = Vec::new();
    let claimed = u64::from_le_bytes(count).saturating_mul(4);
    if claimed > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // The buffer grows with the received bytes, not with the claimed count.
    stream.take(claimed).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != claimed {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (numbers, _) = bytes.as_chunks::<4>();
    Ok(numbers.iter().map(|x| f32::from_le_bytes(*x)).collect())
}

fn gone(rank: usize, error: &io::Error) -> Error {
    Error::group(
        format!("rank {rank} can no longer be reached: {error}"),
        "find the reason in the output of that process, then resume from the last checkpoint",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Both ends of a connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, there)
    }

    /// The results of three processes, by rank.
    fn three<T: Send>(work: impl Fn(usize, &Hosts) -> T + Sync) -> Vec<T> {
        let (near, far): (Vec<_>, Vec<_>) = (0..2).map(|_| connection()).unzip();
        let mut hosts = vec![Hosts::first(near).unwrap()];
        hosts.extend(far.into_iter().map(|stream| Hosts::other(stream).unwrap()));
        std::thread::scope(|scope| {
            let start = |(rank, hosts): (usize, Hosts)| {
                let work = &work;
                // It owns its connections and closes them when it returns.
                scope.spawn(move || work(rank, &hosts))
            };
            let threads: Vec<_> = hosts.into_iter().enumerate().map(start).collect();
            let ends = threads.into_iter().map(|thread| thread.join().unwrap());
            ends.collect()
        })
    }

    #[test]
    fn all_ranks_get_the_same() {
        let found = three(|rank, hosts| {
            let own = [0.1, 10., 0.].map(|x| x * (rank as f32 + 1.)).to_vec();
            let sums = (0..3).map(|_| hosts.sum(own.clone()).unwrap());
            let sums: Vec<_> = sums.collect();
            (
                sums,
                hosts.gather(vec![rank as f32; 2]).unwrap(),
                hosts.sum(vec![]).unwrap(),
            )
        });
        let sums = [0.1f32 + 0.2 + 0.3, 60., 0.];
        for (found, gathered, nothing) in found {
            for found in found {
                assert!((found[0] - sums[0]).abs() < 1e-6 && found[1..] == sums[1..]);
            }
            assert_eq!(gathered, [0., 0., 1., 1., 2., 2.]);
            assert!(nothing.is_empty());
        }
    }

    #[test]
    fn lost_and_mismatched_ranks_are_named() {
        let found = three(|rank, hosts| match rank {
            1 => String::new(),
            _ => hosts.sum(vec![1.]).unwrap_err().to_string(),
        });
        assert!(
            found[0].contains("rank 1 can no longer be reached"),
            "{}",
            found[0]
        );
        assert!(
            found[2].contains("rank 0 can no longer be reached"),
            "{}",
            found[2]
        );
        let found = three(|rank, hosts| hosts.sum(vec![1.; 1 + rank / 2]));
        let error = found[0].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("rank 2 called another collective"),
            "{error}"
        );
        assert!(found[1].is_err() && found[2].is_err());
    }
}
