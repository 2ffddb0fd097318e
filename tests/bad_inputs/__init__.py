"""Bad input: every kind has one outcome, and a test that makes it.

refused        the run ends before any model is loaded, with exit code 2 (run file, models) or 3 (corpus)
error row      the row goes to errors/ under the reason; the run goes on
unharmed       the row is ranked, and stands in selected/ with the same bytes

=====================================================  ============================================  =================
input                                                  outcome                                       test
=====================================================  ============================================  =================
zero bytes, cut off, not Parquet, damaged footer       refused (3)                                   unit/test_plan
footer that contradicts itself, names that are no text refused (3)                                   test_footers
flipped bits: our own files                            error, never another number                   test_flips
flipped bits: a corpus with page checksums             refused (3), same rows; or the footer's names test_flips
flipped bits: a corpus without                         the same, or error row; else not to be seen   test_flips
extension types: pickled, tensors, any unknown         refused (3) before any of its code runs       test_footers
extension types json, uuid, bool8 of Arrow itself      unharmed                                      test_columns
missing or renamed column, unknown layout              refused (2 or 3)                              unit/test_recognise
text column of numbers, bytes, dates, truth values     refused (3)                                   test_columns
string, large_string, dictionary, string_view          unharmed                                      test_columns
shards that differ in a type                           refused (3)                                   unit/test_plan
shards that differ in strings' width, in other columns unharmed                                      test_columns
null field; empty or blank completion                  error row: null_field, empty_completion       unit/test_records
empty or blank prompt                                  unharmed                                      test_rows
identical sides; exact repeat                          error row: identical_completions, duplicate   test_rows
the same pair flipped                                  unharmed; under relabel duplicate             test_repeats
repeated ids, null ids                                 unharmed; null: a hash of the text            test_repeats
broken messages, tool calls, null content              error row: bad_messages                       unit/test_records
text or id that is not UTF-8, a lone surrogate in it   error row: invalid_utf8                       test_rows
control tokens                                         error row: control_tokens                     test_rows
NUL, right-to-left, emoji, markup, escapes             unharmed                                      test_rows
longer than max_length; a row of 100 MB                error row: overlength                         test_long_rows
NaN, infinite rewards or log-probabilities             error row: not_finite                         test_models
all rewards equal                                      unharmed, with a warning                      test_models
no files, no rows                                      refused (2, 3)                                unit/test_plan
empty shard among others; thousands of tiny files      unharmed                                      test_shards
one huge row group                                     unharmed: read in part, a unit at a time      test_shards
keep more than there is, 0, 1; one pair, one row       unharmed                                      test_rows
reward model with several labels                       refused (2)                                   cli/test_errors
reward model whose head is new                         refused (2) by the worker that loads it       ray/test_run
model without a pad token                              unharmed                                      test_models
tokenizer larger than the embedding                    refused (2)                                   test_models
no chat template                                       refused (2), or read as plain text            cli/test_errors
wrong revision                                         refused (2)                                   cli/test_hub
=====================================================  ============================================  =================
"""
