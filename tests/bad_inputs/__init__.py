"""Bad input: every kind has one outcome, and a test that makes it.

refused     the run ends before any score is kept: exit code 2 (run file, models) or 3 (corpus)
a reason    the row goes to errors/ under it, and the run goes on
unharmed    the row is ranked, and stands in selected/ with the same bytes

=================================================  ==================================  ==============================
input                                              outcome                             test
=================================================  ==================================  ==============================
zero bytes, cut off, not Parquet, damaged footer   refused (3)                         unit/test_plan
valid, but shorter than it was planned             refused (3)                         unit/test_plan
footer that contradicts itself; names no text      refused (3)                         test_footers
flipped bytes: our own files                       refused, never another number       test_flips
flipped bytes: a corpus with page checksums        refused (3), or the same rows       test_flips
flipped bytes: a corpus without                    refused (3), error row or not seen  test_flips
extension types: pickled, tensors, unknown ones    refused (3), their code not run     test_footers
Arrow's own types json, uuid, bool8                unharmed                            test_columns
missing or renamed column, unknown form            refused (2 or 3)                    unit/test_recognise
text column of numbers, bytes, dates               refused (3)                         test_columns
string, large_string, dictionary, string_view      unharmed                            test_columns
shards that differ in a type                       refused (3)                         unit/test_plan
shards that differ in strings' width, own columns  unharmed                            test_columns, unit/test_plan
null field; empty or blank completion              null_field, empty_completion        unit/test_records, test_rows
empty or blank prompt                              unharmed                            test_rows
sides of equal tokens; text a template drops       identical_tokens; flagged           golden/test_kept_text
identical sides; exact repeat                      identical_completions, duplicate    test_rows, test_repeats
the same pair flipped                              unharmed; under relabel duplicate   test_repeats
repeated ids; null ids                             unharmed; a hash of the text        test_repeats
broken messages, tool calls, null content          bad_messages                        unit/test_records
text or id not UTF-8, with a lone surrogate        invalid_utf8                        test_rows
control tokens                                     control_tokens                      test_rows
NUL, right-to-left, emoji, markup, escapes         unharmed                            test_rows
longer than max_length; a row of 20 MB             overlength                          test_rows, test_long_rows
NaN, infinite rewards or log-probabilities         not_finite                          test_models
all rewards equal                                  unharmed, with a warning            test_models
no files; no rows                                  refused (2; 3)                      unit/test_plan
empty shard among others; very many tiny files     unharmed                            test_shards
one huge row group                                 unharmed; read in part              test_shards
keep more than there is, 0, 1                      unharmed                            test_rows, property/test_order
one pair                                           refused (2); raw: unharmed          test_rows
reward model with several labels                   refused (2)                         cli/test_errors
reward model whose head is newly made              refused (2) by its worker           ray/test_run
model without a pad token                          unharmed                            test_models
tokenizer larger than the embedding                refused (2)                         test_models
special token past the embedding, unused           control_tokens                      golden/test_model_forms
architecture that does not fit, any exception      refused (2)                         golden/test_model_forms
no chat template                                   refused (2) or read as raw          cli/test_errors, ray/test_run
wrong revision                                     refused (2)                         cli/test_hub
=================================================  ==================================  ==============================
"""
