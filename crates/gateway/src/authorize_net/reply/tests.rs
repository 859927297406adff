//! Replies as they are seen in the wild, and what is read from them.

use super::{CreateReply, DetailsReply, Judgement, UnknownReason};
use crate::request::TransactionId;

fn check(json: &str, expected: &Judgement) {
    let reply: CreateReply = serde_json::from_str(json).unwrap();
    assert_eq!(&reply.judge(), expected, "{json}");
}

fn id(text: &str) -> TransactionId {
    TransactionId::new(text).unwrap()
}

const OK: &str = r#""messages":{"resultCode":"Ok","message":[{"code":"I00001","text":"Successful."}]}"#;
const FAILED: &str =
    r#""messages":{"resultCode":"Error","message":[{"code":"E00027","text":"unsuccessful"}]}"#;

#[test]
fn response_code_decides_whatever_the_result_code() {
    check(
        &format!(
            r#"{{"transactionResponse":{{"responseCode":"1","authCode":"ABC123","transId":"22"}},{OK}}}"#
        ),
        &Judgement::Approved { transaction: id("22"), auth_code: Some("ABC123".to_owned()) },
    );
    for messages in [OK, FAILED] {
        check(
            &format!(
                r#"{{"transactionResponse":{{"responseCode":"3","transId":"0","errors":[{{"errorCode":"37","errorText":"bad"}}]}},{messages}}}"#
            ),
            &Judgement::Declined { code: "37".to_owned(), reason: "bad".to_owned() },
        );
    }
    check(
        &format!(r#"{{"transactionResponse":{{"responseCode":4,"transId":23}},{OK}}}"#),
        &Judgement::Held { transaction: id("23") },
    );
}

#[test]
fn repeats_and_duplicates_are_told_apart_from_approvals() {
    check(
        &format!(
            r#"{{"transactionResponse":{{"responseCode":"1","transId":"22","messages":[{{"code":"311","description":"x"}}]}},{OK}}}"#
        ),
        &Judgement::AlreadyDone { code: "311".to_owned() },
    );
    check(
        &format!(
            r#"{{"transactionResponse":{{"responseCode":"3","transId":"22","errors":[{{"errorCode":"11"}}]}},{FAILED}}}"#
        ),
        &Judgement::Duplicate { original: Some(id("22")) },
    );
    check(
        &format!(
            r#"{{"transactionResponse":{{"responseCode":"3","transId":"0","errors":[{{"errorCode":"11"}}]}},{FAILED}}}"#
        ),
        &Judgement::Duplicate { original: None },
    );
}

#[test]
fn approval_with_the_id_zero_is_test_mode_and_moves_nothing() {
    let json = format!(r#"{{"transactionResponse":{{"responseCode":"1","transId":"0"}},{OK}}}"#);
    let reply: CreateReply = serde_json::from_str(&json).unwrap();
    assert!(matches!(reply.judge(), Judgement::Declined { code, .. } if code == "test_mode"));
}

#[test]
fn approval_without_a_readable_id_is_unclear_and_not_a_decline() {
    for id in
        ["", r#","transId":"""#, r#","transId":null"#, r#","transId":"22 33""#, r#","transId":{"id":"22"}"#]
    {
        check(
            &format!(r#"{{"transactionResponse":{{"responseCode":"1","authCode":"ABC123"{id}}},{OK}}}"#),
            &Judgement::Unclear(UnknownReason::Malformed),
        );
    }
    // Too long for an identifier.
    let long = "7".repeat(65);
    check(
        &format!(r#"{{"transactionResponse":{{"responseCode":"1","transId":"{long}"}},{OK}}}"#),
        &Judgement::Unclear(UnknownReason::Malformed),
    );
}

#[test]
fn refusals_before_processing_are_final_and_the_rest_is_unclear() {
    let envelope = |code: &str| {
        format!(
            r#"{{"transactionResponse":{{"SupplementalDataQualificationIndicator":0}},"messages":{{"resultCode":"Error","message":[{{"code":"{code}","text":"t"}}]}}}}"#
        )
    };
    check(&envelope("E00003"), &Judgement::Declined { code: "E00003".to_owned(), reason: "t".to_owned() });
    check(&envelope("E00007"), &Judgement::Declined { code: "E00007".to_owned(), reason: "t".to_owned() });
    check(&envelope("E00027"), &Judgement::Unclear(UnknownReason::Malformed));
    check(&envelope("E99999"), &Judgement::Unclear(UnknownReason::Malformed));
    check(&format!("{{{OK}}}"), &Judgement::Unclear(UnknownReason::Malformed));
}

#[test]
fn details_keep_the_exact_text_of_numbers() {
    let json = format!(
        r#"{{"transaction":{{"transId":"5","authAmount":1018.88,"responseCode":1,"codeSpecified":true,"payment":{{"creditCard":{{"cardNumber":"XXXX1111"}}}}}},{OK}}}"#
    );
    let reply: DetailsReply = serde_json::from_str(&json).unwrap();
    let details = reply.into_details().unwrap().unwrap();
    assert_eq!(details.auth_amount.as_str(), Some("1018.88"));
    assert_eq!(details.card_last4(), Some("1111"));
}
