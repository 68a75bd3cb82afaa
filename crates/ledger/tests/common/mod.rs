//! Small books for tests.

#![allow(dead_code)]

use base::{Hash, Keypair, Millis, NodeId, Reject, Signed};
use ledger::{
    Credits, DOMAIN, Issuance, Ledger, Params, SEAT_DOMAIN, SeatClaim, SignedWalletTx, VOUCHER_DOMAIN, Voucher,
    WalletEnvelope, WalletTx,
};

pub const PEOPLE: u8 = 4;
pub const FEE: Credits = Credits(3);

pub fn key(i: u8) -> Keypair {
    Keypair::from_secret([i % PEOPLE + 1; 32])
}

pub fn id(i: u8) -> NodeId {
    key(i).id()
}

pub fn params() -> Params {
    Params {
        chain: Hash([7; 32]),
        fee: FEE,
        locked_units: 3,
        unbonding_ms: 100,
        close_ms: 50,
        issuance: Issuance { per_hour: Credits(3_600_000), era_hours: 1 },
        seat_bond: Credits(100),
    }
}

pub fn opened() -> Ledger {
    let opening: Vec<_> = (0..PEOPLE).map(|i| (id(i), Credits(1_000))).collect();
    let mut ledger = Ledger::new(params(), &opening);
    ledger.advance(Millis(1_000));
    ledger
}

pub fn say(ledger: &Ledger, by: u8, tx: WalletTx) -> SignedWalletTx {
    let nonce = ledger.account(&id(by)).map_or(0, |account| account.wallet_nonce);
    Signed::new(DOMAIN, &key(by), WalletEnvelope { chain: params().chain, nonce, tx })
}

pub fn take(ledger: &mut Ledger, by: u8, tx: WalletTx) -> Result<(), Reject> {
    let tx = say(ledger, by, tx);
    ledger.take(&tx)
}

pub fn voucher(client: u8, payee: u8, serial: u64, total: u64) -> Signed<Voucher> {
    let voucher = Voucher { chain: params().chain, payee: id(payee), serial, total: Credits(total) };
    Signed::new(VOUCHER_DOMAIN, &key(client), voucher)
}

pub fn claim(seat: u8, owner: u8) -> Signed<SeatClaim> {
    let claim = SeatClaim { chain: params().chain, owner: id(owner), node: id(owner) };
    Signed::new(SEAT_DOMAIN, &key(100 + seat % PEOPLE), claim)
}
