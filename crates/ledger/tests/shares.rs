//! Whose a budget is, and who pays for a redemption.

mod common;

use base::{Hash, Keypair, Millis, NodeId, Reject, Signed, Wire};
use common::{FEE, id, opened, params, take, voucher};
use ledger::{Allotments, Credits, DOMAIN, Ledger, PAYERS_MAX, PaySource, WalletEnvelope, WalletTx};
use proptest::prelude::*;

const POT: Hash = Hash([9; 32]);

fn fund(books: &mut Ledger, by: u8, amount: u64) {
    take(books, by, WalletTx::Fund { pot: POT, amount: Credits(amount) }).expect("paid in");
}

fn free(books: &Ledger, who: &NodeId) -> u64 {
    books.account(who).map_or(0, |account| account.balance.0)
}

#[test]
fn what_is_left_of_a_budget_goes_back_to_those_who_paid_it_in() {
    let mut books = opened();
    fund(&mut books, 0, 300);
    fund(&mut books, 1, 100);
    books.pay(PaySource::Pot(POT), &id(3), Credits(200)).expect("a unit");
    // Half is spent, a half of each part: who comes now pays for nothing that was done before.
    fund(&mut books, 2, 200);
    let mut again = Ledger::from_bytes(&books.to_bytes()).expect("read back");
    assert_eq!(again.root(), books.root());
    let before: Vec<u64> = (0..3).map(|i| free(&books, &id(i))).collect();
    let mut parts = books.refund(&POT);
    assert_eq!(again.refund(&POT), parts, "books that travelled know the payers");
    parts.sort_by_key(|(_, part)| *part);
    assert_eq!(parts, [(id(1), Credits(50)), (id(0), Credits(150)), (id(2), Credits(200))]);
    let got: Vec<u64> = (0..3).zip(before).map(|(i, before)| free(&books, &id(i)) - before).collect();
    assert_eq!(got, [150, 50, 200]);
    assert_eq!(books.held(), u128::from(books.supply().0));
}

#[test]
fn a_budget_that_was_spent_forgets_who_paid_it_in() {
    let mut books = opened();
    fund(&mut books, 0, 300);
    books.pay(PaySource::Pot(POT), &id(3), Credits(300)).expect("all of it");
    fund(&mut books, 1, 10);
    assert_eq!(books.refund(&POT), [(id(1), Credits(10))]);
}

fn stranger(i: usize) -> Keypair {
    Keypair::from_secret([(i + 10) as u8; 32])
}

#[test]
fn dust_in_a_budget_keeps_nobody_from_paying() {
    let opening: Vec<_> = (0..PAYERS_MAX + 2).map(|i| (stranger(i).id(), Credits(1_000))).collect();
    let mut books = Ledger::new(params(), &opening);
    let fund = |books: &mut Ledger, i: usize, nonce: u64, amount: u64| {
        let tx = WalletTx::Fund { pot: POT, amount: Credits(amount) };
        let tx = Signed::new(DOMAIN, &stranger(i), WalletEnvelope { chain: params().chain, nonce, tx });
        let asked = books.check(&tx, 0);
        assert_eq!(books.take(&tx), asked, "a mempool is told what becomes of it");
        asked
    };
    // The attacker takes every place for a few millionths each.
    for i in 0..PAYERS_MAX {
        assert_eq!(fund(&mut books, i, 0, 2 + u64::from(i > 0)), Ok(()));
    }
    assert_eq!(fund(&mut books, PAYERS_MAX, 0, 2), Err(Reject::Full), "no more than the smallest");
    assert_eq!(fund(&mut books, PAYERS_MAX, 0, 500), Ok(()));
    assert_eq!(free(&books, &stranger(0).id()), 1_000 - FEE.0, "the smallest has its share back");
    assert_eq!(fund(&mut books, PAYERS_MAX, 1, 5), Ok(()), "who has a place adds to it");
    assert_eq!(books.pot(&POT).0, 3 * (PAYERS_MAX as u64 - 1) + 505);
    let parts = books.refund(&POT);
    assert_eq!(parts.len(), PAYERS_MAX);
    assert!(parts.contains(&(stranger(PAYERS_MAX).id(), Credits(505))));
    assert_eq!(books.held(), u128::from(books.supply().0));
}

#[test]
fn a_budget_that_is_nobodys_is_none() {
    let mut books = opened();
    fund(&mut books, 0, 7);
    let bytes = books.to_bytes();
    let mut record = Credits(7).to_bytes();
    record.extend(std::collections::BTreeMap::from([(id(0), Credits(7))]).to_bytes());
    let at = bytes.windows(record.len()).position(|window| window == record).expect("the budget");
    for wrong in [at, at + 8 + 4 + 32] {
        let mut forged = bytes.clone();
        forged[wrong] = 0;
        assert!(Ledger::from_bytes(&forged).is_err(), "byte {wrong}");
    }
}

#[test]
fn a_time_past_all_numbers_is_refused() {
    let mut books = opened();
    take(&mut books, 0, WalletTx::Bond { amount: Credits(50) }).expect("bonded");
    books.advance(Millis(u64::MAX - 10));
    let held = books.held();
    assert_eq!(take(&mut books, 0, WalletTx::Unbond { amount: Credits(20) }), Err(Reject::Expired));
    assert_eq!(books.held(), held);
}

proptest! {
    /// The client redeems its own vouchers in whatever slices it likes: what the payee does not get is one fee at most,
    /// for the redemption that it signs itself in the end.
    #[test]
    fn a_client_cannot_burn_what_it_owes(slices in proptest::collection::vec(1u64..60, 1..40)) {
        let mut books = opened();
        take(&mut books, 0, WalletTx::Deposit { amount: Credits(500) }).expect("deposited");
        take(&mut books, 0, WalletTx::Allot { parts: Allotments(vec![(id(1), Credits(400))]) }).expect("allotted");
        let before = free(&books, &id(1));
        let mut total = 0;
        for slice in slices {
            total += slice;
            let _ = take(&mut books, 0, WalletTx::Redeem { voucher: voucher(0, 1, 0, total) });
        }
        // The payee holds the last voucher, and redeems what is left where that is worth a fee.
        let _ = take(&mut books, 1, WalletTx::Redeem { voucher: voucher(0, 1, 0, total) });
        let (got, due) = (free(&books, &id(1)) - before, total.min(400));
        prop_assert!(got + FEE.0 >= due, "{} of {}", got, due);
        prop_assert_eq!(books.held(), u128::from(books.supply().0));
    }
}
