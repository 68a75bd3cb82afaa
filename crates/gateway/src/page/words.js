// What the codes of counters mean, in words. Closed lists: each code that a node can count is here.

import { capital } from "./format.js";

// How a question ended that was asked here.
export const OUTCOMES = {
  answered: "Answered to the end.",
  cancelled: "Given up by whoever asked.",
  unknown_model: "Refused: the model is not served here.",
  busy: "Refused: all places were taken.",
  too_long: "Refused: longer than the model can take.",
  invalid: "Refused: the model cannot do what was asked.",
  price: "Refused: not offered at that price.",
  unpaid: "Ended: it was not paid.",
  owner: "Ended: you needed the machine.",
  failed: "Broken off: the model stopped in the middle.",
};

// Why something that another machine sent was not taken.
const REJECTS = {
  malformed: "It was in no known format.",
  oversized: "It was larger than its kind may be.",
  bad_signature: "The signature was not that of its signer.",
  unknown_run: "It was about a run that is not known here.",
  duplicate_run: "The run exists already.",
  not_member: "The sender has no part in the run or the round.",
  not_invited: "The sender is not invited to the run.",
  full: "There was no place left.",
  stale: "It came too late: the round had passed.",
  early: "It came too early: the round had not begun.",
  duplicate: "It was said before; the first word counts.",
  wrong_work: "It was not the work, or not for the terms, that was agreed.",
  wrong_root: "It began from weights that the members did not agree on.",
  wrong_hash: "The bytes were not those that were announced.",
  wrong_size: "The update did not fit the model.",
  not_finite: "The update held numbers that are none.",
  wrong_norm: "The update was not as large as it was said to be.",
  wrong_shape: "The list did not fit the round.",
  not_committee: "The sender had no say in that round.",
  ended: "The run had ended.",
  insufficient: "The account had too little, or no bond where one is demanded.",
  wrong_chain: "It was signed for another network.",
  bad_amount: "The amount was zero, or too large.",
  no_work: "It lacked the proof of work that entering a run costs.",
  no_allotment: "It was to be paid from an allotment that does not exist.",
  not_held: "What was asked for was not there.",
  too_many: "More was asked for than one may have under way.",
  out_of_order: "It did not follow what came before.",
  cut_off: "The answer stopped before its end.",
  overcharged: "More was charged than was done or agreed.",
  unpaid: "What was delivered was not paid.",
  expired: "Its time had passed, or was too far away.",
};

// What spot checks of other machines' answers said.
const VERDICTS = {
  good: "Good: these weights can have written it.",
  unclear: "Unclear: too short to say.",
  other_words: "Bad: words that these weights do not write.",
  other_chance: "Bad: more, or less, left to chance than was asked for.",
  cut_off: "Bad: it stopped before its end.",
  other_count: "Bad: the question was counted differently.",
};

const plain = (code) => capital(code.replaceAll("_", " "));

export const verdict = (code) => VERDICTS[code] || plain(code);

export function reject(code) {
  return code.startsWith("offer_") ? `An offer. ${reject(code.slice(6))}` : REJECTS[code] || plain(code);
}
