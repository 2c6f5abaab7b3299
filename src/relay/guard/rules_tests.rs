use super::{Passed, Reading, is_plain_encoding, judge};

const USUAL: Reading = Reading {
    standard_strings: true,
    plain_encoding: true,
};

fn passes(text: &str) -> bool {
    judge(text.as_bytes(), USUAL).is_ok()
}

#[test]
fn what_reads_passes() {
    for text in [
        "",
        ";;",
        "SELECT 1; SELECT 'SET default_transaction_read_only = off'",
        "(SELECT 1) UNION (VALUES (2))",
        "WITH x AS (TABLE t) SELECT * FROM x",
        "BEGIN; SELECT 1; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
        "START TRANSACTION READ ONLY",
        "SAVEPOINT a; SELECT 1; ROLLBACK TO SAVEPOINT a; RELEASE a",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET TRANSACTION READ ONLY",
        "SET default_transaction_read_only TO 'on'",
        "SET LOCAL transaction_read_only = true",
        "SET standard_conforming_strings = on",
        "SET client_encoding TO 'UTF8'",
        "SET NAMES 'latin1'",
        "SET search_path TO a, \"b\"",
        "RESET ALL; DISCARD ALL",
        "RESET search_path",
        "SHOW transaction_read_only",
        "SELECT current_setting('default_transaction_read_only')",
        "SELECT set_config('my.claim', 'off', true), 1",
        "EXPLAIN ANALYZE SELECT * FROM t FOR UPDATE",
        "COPY t TO STDOUT",
        "COPY (SELECT 1) TO STDOUT WITH (FORMAT csv)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1; FETCH ALL c; CLOSE c",
        "PREPARE p AS SELECT $1::int; EXECUTE p(1); DEALLOCATE p",
        "LISTEN x",
        "SELECT dblink, lo_create FROM t",
        "SELECT 'it''s', E'a\\'b', $$do$$, $a$ $$ $a$, U&'\\0041', B'1', X'f', N'n', é FROM \"do\"",
        "SELECT 1 /* SET /* nested */ READ WRITE */ -- DO",
        "SELECT a$$b, $1, 1.5e5 FROM t",
        // The server refuses these itself, in its own words.
        "INSERT INTO t VALUES (1)",
        "UPDATE pg_settings SET setting = 'off'",
        "CREATE TEMP TABLE t (a int)",
        "ALTER ROLE a SET default_transaction_read_only = off",
    ] {
        assert!(passes(text), "{text}: {:?}", judge(text.as_bytes(), USUAL));
    }
}

#[test]
fn every_way_out_is_refused() {
    for text in [
        "BEGIN READ WRITE",
        "begin/**/isolation level serializable,read\n--x\nwrite",
        "START TRANSACTION READ WRITE",
        "SET TRANSACTION READ WRITE",
        "SET LOCAL TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT 1; SET TRANSACTION READ/* */WRITE",
        "SET default_transaction_read_only = off",
        "SET default_transaction_read_only TO DEFAULT",
        "SET \"Transaction_Read_Only\" TO 'off'",
        "SET SESSION transaction_read_only = E'off'",
        "SET transaction_read_only = on, off",
        "SET transaction_read_only FROM CURRENT",
        "SET default_transaction_read_only",
        "SET U&\"default\\005ftransaction_read_only\" = off",
        "SET U&\"d!0061ta\" UESCAPE '!' = off",
        "RESET transaction_read_only",
        "RESET \"default_transaction_read_only\"",
        "RESET client_encoding",
        "SELECT set_config('default_transaction_read_only', 'off', false)",
        "SELECT SET_CONFIG ('Transaction_Read_Only', 'off', false)",
        "SELECT pg_catalog.\"set_config\"('transaction_read_only', 'off', false)",
        "SELECT set_config($1, $2, false)",
        "SELECT set_config('transaction' || '_read_only', 'off', false)",
        "SELECT set_config('transaction'\n'_read_only', 'off', false)",
        "SELECT set_config(E'transaction\\x5fread_only', 'off', false)",
        "SELECT set_config(value => 'off', setting_name => 'x', is_local => false)",
        "SELECT set_config",
        "SELECT 1 /* /* */ ; */ ; DO $$ BEGIN COMMIT; END $$",
        "DO LANGUAGE plpgsql 'x'",
        "CALL p()",
        "COMMIT; INSERT INTO t VALUES (1)",
        "SELECT f(); ROLLBACK; INSERT INTO t VALUES (1)",
        "END;;ABORT",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
        "ROLLBACK PREPARED 'x'",
        "ALTER SYSTEM SET default_transaction_read_only = off",
        "LOAD 'lib'",
        "COPY (SELECT 1) TO PROGRAM 'psql'",
        "SELECT query_to_xml('select 1', true, false, '')",
        "SELECT * FROM pg_catalog.\"ts_stat\" ('select 1')",
        "SELECT dblink_exec('', 'INSERT')",
        "SELECT lo_create(0)",
        "SET standard_conforming_strings = off",
        "SET client_encoding = sjis",
        "SET NAMES gbk",
        // Ours and the server's reading of these could differ.
        "SELECT 'open",
        "SELECT /* open",
        "SELECT $a$ open $b$",
        "SELECT E'a'\n'b\\'; DO $$ $$ --'",
        "SELECT $é$ $é$",
    ] {
        assert!(!passes(text), "{text}");
    }
}

/// The tricks begin where a reader believes to be inside a quote and the server does not.
#[test]
fn a_statement_behind_a_quote_is_seen() {
    for quoted in [
        "'a\\'",
        "E'a\\\\'",
        "E'''\\''",
        "'it''s'",
        "\"a\"\"b\"",
        "$$'$$",
        "$a$ $$ $b$ $a$",
        "a$$ || b$$",
        "1$$'$$",
        "$1$$'$$",
        "U&'\\'",
        "B'1'''",
        "/* ' */ 1",
        "-- '\n 1",
        "1 --'\r + 1",
        "é'\\'",
    ] {
        let harmless = format!("SELECT {quoted} ; SELECT 1");
        assert!(passes(&harmless), "{harmless}");
        let text = format!("SELECT {quoted} ; DO 'x'");
        assert!(!passes(&text), "{text}");
    }
}

#[test]
fn what_stands_in_a_quote_is_not_run() {
    for quoted in [
        "'; DO '",
        "$$; DO $$",
        "E'\\'; DO '",
        "\"; DO \"",
        "/*; DO */ 1",
        "$a$; DO $$; $a$",
    ] {
        let text = format!("SELECT {quoted} FROM t");
        assert!(passes(&text), "{text}");
    }
}

#[test]
fn encodings_and_old_strings_that_hide_quotes_are_refused() {
    let old = Reading {
        standard_strings: false,
        ..USUAL
    };
    assert!(judge(b"SELECT 'a\\'; DO $$ $$ --'", old).is_err());
    assert!(judge(b"SELECT 'a'", old).is_ok());
    let sjis = Reading {
        plain_encoding: false,
        ..USUAL
    };
    assert!(judge(b"SELECT E'\x83\x5c'; DO $$ $$ --'", sjis).is_err());
    assert!(judge(b"SELECT 'a'", sjis).is_ok());
    let known = [
        "UTF8",
        "utf-8",
        "LATIN1",
        "ISO_8859_5",
        "WIN1252",
        "EUC_JP",
        "SQL_ASCII",
    ];
    assert!(known.iter().all(|name| is_plain_encoding(name.as_bytes())));
    let hiding = [
        "SJIS",
        "shift_jis_2004",
        "BIG5",
        "GBK",
        "GB18030",
        "UHC",
        "JOHAB",
        "WINDOWS932",
        "Mskanji",
        "",
    ];
    assert!(!hiding.iter().any(|name| is_plain_encoding(name.as_bytes())));
}

#[test]
fn the_end_of_a_transaction_is_known() {
    for (text, ends) in [
        ("SELECT 1", false),
        ("COMMIT", true),
        ("commit and chain;", true),
        ("ROLLBACK TO a", false),
        ("ROLLBACK WORK TO SAVEPOINT a", false),
        ("SELECT 1; END", true),
    ] {
        assert_eq!(judge(text.as_bytes(), USUAL), Ok(Passed { ends }), "{text}");
    }
}
