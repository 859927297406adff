//! Exchanges claims for what was loaded, or for nothing. Fenced twice: by the CAS number of the claimed
//! item, and by the connection it was claimed over. Called through `TierShare`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    claims::{Held, Remains},
    connection::Connection,
    record::Record,
    share::{MemcachedShare, Target, store},
    wire::{Command, Reply, When},
};
use crate::tier::{Answers, Settlement, Stored, TierError, Token};

/// A claim on its way.
struct Settling<'a> {
    index: usize,
    target: Target,
    held: Held,
    settlement: &'a Settlement,
    /// What is answered if the exchange succeeds.
    result: Stored,
}

impl Settling<'_> {
    /// Over the connection the claim was won on.
    fn via(&self, command: Command) -> (Arc<Connection>, Command) {
        (Arc::clone(&self.target.connection), command)
    }

    /// Replaces the claimed item by the record, or by nothing if that has nothing to say.
    fn replace(&self, record: &Record) -> Command {
        let key = self.target.key.clone();
        match record.seal() {
            Some(sealed) => store(key, When::Unchanged(self.held.cas), sealed),
            None => Command::Delete { key, cas: Some(self.held.cas) },
        }
    }
}

impl MemcachedShare {
    pub(super) async fn exchange_claims(
        &self,
        claims: &[(Bytes, Token, Settlement)],
    ) -> Result<Answers<Stored>, TierError> {
        let turn = self.turn().await?;
        let mut stored = vec![Ok(Stored::Refused); claims.len()];
        let (mut first, mut commands) = (Vec::new(), Vec::new());
        for (index, (key, token, settlement)) in claims.iter().enumerate() {
            let key = self.name(key);
            let Some(held) = self.claims.take(&key, *token) else { continue };
            let target = Target { key, connection: held.connection.clone() };
            let mut settling = Settling { index, target, held, settlement, result: Stored::Yes };
            let command = self.first_step(&mut settling);
            commands.push(settling.via(command));
            first.push(settling);
        }
        let replies = turn.exchange(commands).await;
        let (mut second, mut commands) = (Vec::new(), Vec::new());
        for (mut settling, reply) in first.into_iter().zip(replies) {
            match reply {
                Ok(Reply::Item(item)) if item.cas == settling.held.cas => {
                    let command = second_step(&mut settling, Record::open(&item));
                    commands.push(settling.via(command));
                    second.push(settling);
                }
                reply => stored[settling.index] = judge(&reply, settling.result),
            }
        }
        for (settling, reply) in second.into_iter().zip(turn.exchange(commands).await) {
            stored[settling.index] = judge(&reply, settling.result);
        }
        Ok(stored)
    }

    /// What a claim needs first: the exchange itself, or a look at what has to remain.
    fn first_step(&self, settling: &mut Settling<'_>) -> Command {
        if let Settlement::Value { bytes, lifetime } = settling.settlement {
            if self.fits(&settling.target, bytes) {
                let mut record = Record { floor: settling.held.floor, ..Record::default() };
                record.fill(bytes.clone(), *lifetime);
                return settling.replace(&record);
            }
            settling.result = Stored::Refused;
        }
        match settling.held.remains {
            Remains::Nothing => {
                if matches!(settling.settlement, Settlement::Extend { .. }) {
                    settling.result = Stored::Refused;
                }
                settling.replace(&Record::default())
            }
            Remains::Something => Command::Get { key: settling.target.key.clone(), vivify_s: None },
        }
    }
}

/// The exchange, now that what has to remain is known.
fn second_step(settling: &mut Settling<'_>, mut record: Record) -> Command {
    record.claim = None;
    match settling.settlement {
        Settlement::Release => {}
        Settlement::Extend { lifetime } => match record.kept.take() {
            Some(kept) if *lifetime > Duration::ZERO => record.fill(kept.bytes, *lifetime),
            _ => settling.result = Stored::Refused,
        },
        // It had no room, or was never to be stored: what is there is older.
        Settlement::Value { .. } | Settlement::Outdate => record.degrade(),
    }
    settling.replace(&record)
}

fn judge(reply: &Result<Reply, TierError>, success: Stored) -> Result<Stored, TierError> {
    match reply {
        Ok(Reply::Done { .. }) => Ok(success),
        // The connection the claim was won on is gone, and with it the claim.
        Ok(_) | Err(TierError::Down) => Ok(Stored::Refused),
        Err(error) => Err(*error),
    }
}
