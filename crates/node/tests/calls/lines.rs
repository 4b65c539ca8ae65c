//! `framing=lines`.

use std::sync::atomic::Ordering;

use super::*;

/// The next line the service gets, and the id in it.
async fn line(socket: &mut TcpStream) -> (String, Value) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\n") {
        bytes.push(within("a line", socket.read_u8()).await.unwrap());
    }
    let text = String::from_utf8(bytes).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    (text, value)
}

#[tokio::test]
async fn calls_share_one_connection_and_each_gets_its_own_answer_with_its_own_id() {
    let world = World::new("framing=lines").await;
    let ids = ["1", "\"1\"", "1", "null", "1.50", "\"a\\\"b\"", "[1,{\"x\":2}]", "18446744073709551616"];
    let mut calls = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let body =
            format!("{{\"jsonrpc\":\"2.0\",\n \"params\":{{\"id\":9}},\"id\" : {id},\"method\":\"m{n}\"}}");
        calls.push(begin(&world.session(), PATIENCE, &json!({}), body.as_bytes()).await);
    }
    let mut socket = world.accept().await;
    let mut seen = Vec::new();
    for _ in 0..ids.len() {
        let (text, value) = line(&mut socket).await;
        assert!(text.starts_with("{\"jsonrpc\":\"2.0\",  \"params\":{\"id\":9},\"id\" : "), "{text}");
        seen.push((value["method"].as_str().unwrap().to_owned(), value["id"].as_u64().unwrap()));
    }
    let mut different: Vec<u64> = seen.iter().map(|(_, id)| *id).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), ids.len());
    // The last asked is answered first.
    for (method, id) in seen.into_iter().rev() {
        write(&mut socket, format!("{{ \"id\":{id},\"result\":\"{method}\" }}\r\n")).await;
    }
    for ((n, id), mut substream) in ids.iter().enumerate().zip(calls) {
        let answer = read(&mut substream).await.unwrap();
        assert_eq!(String::from_utf8(answer.body).unwrap(), format!("{{ \"id\":{id},\"result\":\"m{n}\" }}"));
    }
    assert!(world.nobody_dialled().await, "one connection");
    assert_eq!(world.stats.calls_answered.load(Ordering::Relaxed), ids.len() as u64);
}

#[tokio::test]
async fn bodies_of_any_size_arrive_and_one_too_large_costs_only_its_caller() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    let mut socket = None;
    for size in SIZES {
        let serving = async {
            if socket.is_none() {
                socket = Some(world.accept().await);
            }
            let socket = socket.as_mut().unwrap();
            let seen = read_until(socket, b"\n").await;
            let id = serde_json::from_slice::<Value>(&seen).unwrap()["id"].to_string();
            let reply = String::from_utf8(answer_of(size)).unwrap().replacen("\"q\"", &id, 1);
            write(socket, reply + "\n").await;
            String::from_utf8(seen).unwrap().replacen(&format!("\"id\":{id}"), "\"id\":\"q\"", 1)
        };
        let request = request_of(size);
        let (answer, seen) = tokio::join!(call(&session, PATIENCE, &request), serving);
        assert!(seen.trim_end().as_bytes() == request, "{size}");
        assert!(answer.unwrap().body == answer_of(size), "{size}");
    }

    let mut socket = socket.unwrap();
    let mut other = begin(&session, PATIENCE, &json!({}), br#"{"id":"other","method":"other"}"#).await;
    let (_, asked) = line(&mut socket).await;
    for (begin_of, end_of) in [("{\"id\":ID,\"result\":\"", "\"}\n"), ("{\"result\":\"", "\",\"id\":ID}\n")] {
        for excess in [1, 200_000] {
            let serving = async {
                let (_, value) = line(&mut socket).await;
                let id = value["id"].to_string();
                let (front, back) = (begin_of.replace("ID", &id), end_of.replace("ID", &id));
                // Its id takes three bytes back home ("q"), here as many as it has digits.
                let fill = CALL_BODY_MAX + excess - front.len() - (back.len() - 1) + id.len() - 3;
                write(&mut socket, [front.as_bytes(), &vec![b'r'; fill], back.as_bytes()].concat()).await;
            };
            let (answer, ()) = tokio::join!(call(&session, PATIENCE, br#"{"id":"q","method":"m"}"#), serving);
            assert_eq!(answer.unwrap_err().code(), Code::TooLarge, "{begin_of} {excess}");
        }
    }
    write(&mut socket, format!("{{\"id\":{},\"result\":1}}\n", asked["id"])).await;
    assert_eq!(read(&mut other).await.unwrap().body, br#"{"id":"other","result":1}"#);
}

#[tokio::test]
async fn a_batch_is_one_unit_matched_by_the_ids_inside() {
    let world = World::new("framing=lines").await;
    let body = br#"[{"id":"a","method":"x"},{"method":"note"},{"id":2,"method":"y"}]"#;
    let mut batch = begin(&world.session(), PATIENCE, &json!({}), body).await;
    let mut single = begin(&world.session(), PATIENCE, &json!({}), br#"{"id":3,"method":"z"}"#).await;
    let mut socket = world.accept().await;
    let (first, second) = (line(&mut socket).await.1, line(&mut socket).await.1);
    let (many, one) = if first.is_array() { (first, second) } else { (second, first) };
    let (a, b, c) = (&many[0]["id"], &many[2]["id"], &one["id"]);
    assert_eq!(many[1], json!({"method": "note"}));
    // A line of its own can't be the batch's answer.
    write(&mut socket, format!("{{\"id\":{a},\"result\":0}}\n")).await;
    write(
        &mut socket,
        format!(
            "[{{\"id\":{b},\"result\":2}}, {{\"id\":null,\"error\":{{}}}}, {{\"id\":{a},\"result\":1}}]\n"
        ),
    )
    .await;
    write(&mut socket, format!("{{\"id\":{c},\"result\":3}}\n")).await;
    assert_eq!(
        String::from_utf8(read(&mut batch).await.unwrap().body).unwrap(),
        r#"[{"id":2,"result":2}, {"id":null,"error":{}}, {"id":"a","result":1}]"#
    );
    assert_eq!(read(&mut single).await.unwrap().body, br#"{"id":3,"result":3}"#);
}

#[tokio::test]
async fn notifications_are_answered_once_written() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    for body in [r#"{"method":"note"}"#, r#"[{"method":"a"},{"method":"b"}]"#] {
        let answer = call(&session, PATIENCE, body.as_bytes()).await.unwrap();
        assert!(answer.body.is_empty() && answer.head["status"] == 200, "{answer:?}");
    }
    let mut socket = world.accept().await;
    assert_eq!(line(&mut socket).await.0, "{\"method\":\"note\"}\n");
    assert_eq!(line(&mut socket).await.0, "[{\"method\":\"a\"},{\"method\":\"b\"}]\n");
}

#[tokio::test]
async fn messages_without_id_go_to_those_who_asked_for_them() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    let mut streaming =
        begin(&session, PATIENCE, &json!({"stream": true}), br#"{"id":1,"method":"watch"}"#).await;
    let mut plain = begin(&session, PATIENCE, &json!({}), br#"{"id":2,"method":"plain"}"#).await;
    let mut socket = world.accept().await;
    let (first, second) = (line(&mut socket).await.1, line(&mut socket).await.1);
    let (watch, other) = if first["method"] == "watch" { (first, second) } else { (second, first) };
    write(
        &mut socket,
        "{\"method\":\"event\",\"params\":1}\n\n{\"method\":\"event\",\"params\":2}\nno json\n",
    )
    .await;
    write(
        &mut socket,
        format!("{{\"id\":{},\"result\":0}}\n{{\"id\":{},\"result\":9}}\n", other["id"], watch["id"]),
    )
    .await;
    let answer = read(&mut streaming).await.unwrap();
    let items: Vec<_> = answer.items.iter().map(|item| std::str::from_utf8(item).unwrap()).collect();
    assert_eq!(
        items,
        [r#"{"method":"event","params":1}"#, r#"{"method":"event","params":2}"#, r#"{"id":1,"result":9}"#]
    );
    let answer = read(&mut plain).await.unwrap();
    assert!(answer.items.is_empty() && answer.body == br#"{"id":2,"result":0}"#, "{answer:?}");
}

#[tokio::test]
async fn a_streaming_caller_that_reads_nothing_is_given_up_by_bytes_and_costs_nobody_else() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    let stream = json!({"stream": true});
    let mut sleeper = begin(&session, 3 * PATIENCE, &stream, br#"{"id":1,"method":"watch"}"#).await;
    let mut socket = world.accept().await;
    let first = line(&mut socket).await.1;
    // Far fewer messages than may be unread, and more bytes. Whoever comes after the first one and reads gets the rest.
    let large = format!("{{\"method\":\"event\",\"params\":\"{}\"}}\n", "e".repeat(900_000));
    write(&mut socket, &large).await;
    let mut reader = begin(&session, 3 * PATIENCE, &stream, br#"{"id":2,"method":"watch"}"#).await;
    let asked = [first, line(&mut socket).await.1];
    let reading = async {
        let mut items = 0;
        while items < 18 {
            match within("an item", reader.next()).await.unwrap() {
                Record::Item(_) => items += 1,
                Record::Head(head) => {
                    let head: Value = serde_json::from_slice(&head).unwrap();
                    assert_eq!(head["headers"]["content-type"], "application/x-ndjson");
                }
                Record::Data(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let streaming = async {
        for _ in 0..18 {
            write(&mut socket, &large).await;
        }
    };
    tokio::join!(reading, streaming);
    // The node need not wait for the other to read.
    within("the end of the visit", async {
        while world.stats.visits_broken.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let end = read(&mut sleeper).await.unwrap_err();
    assert_eq!(end.code(), Code::Reset, "{end}");
    drop(reader);

    // The connection goes on, and an answer to the one that is gone is nobody's.
    for request in asked {
        write(&mut socket, format!("{{\"id\":{},\"result\":0}}\n", request["id"])).await;
    }
    let serving = async {
        let (_, request) = line(&mut socket).await;
        write(&mut socket, format!("{{\"id\":{},\"result\":5}}\n", request["id"])).await;
    };
    let (answer, ()) = tokio::join!(call(&session, PATIENCE, br#"{"id":3,"method":"plain"}"#), serving);
    assert_eq!(answer.unwrap().body, br#"{"id":3,"result":5}"#);
}

#[tokio::test]
async fn a_lost_connection_loses_every_call_on_it_and_nothing_is_sent_again() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    let mut calls = Vec::new();
    for _ in 0..5 {
        calls.push(begin(&session, PATIENCE, &json!({}), br#"{"id":1,"method":"m"}"#).await);
    }
    let mut socket = world.accept().await;
    for _ in 0..5 {
        line(&mut socket).await;
    }
    write(&mut socket, "{\"id\":1,\"res").await;
    drop(socket);
    for mut substream in calls {
        let end = read(&mut substream).await.unwrap_err();
        assert_eq!(end.code(), Code::Lost, "{end}");
    }
    assert!(world.nobody_dialled().await, "nothing was sent again");

    // The next call finds a new connection.
    let mut substream = begin(&session, PATIENCE, &json!({}), br#"{"id":"n","method":"m"}"#).await;
    let mut socket = world.accept().await;
    let (_, value) = line(&mut socket).await;
    write(&mut socket, format!("{{\"id\":{},\"result\":1}}\n", value["id"])).await;
    assert_eq!(read(&mut substream).await.unwrap().body, br#"{"id":"n","result":1}"#);
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_nobody_elses() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    let late = begin(&session, Duration::from_millis(200), &json!({}), br#"{"id":1,"method":"late"}"#).await;
    let given_up = begin(&session, PATIENCE, &json!({}), br#"{"id":1,"method":"late"}"#).await;
    let mut socket = world.accept().await;
    let old = [line(&mut socket).await.1, line(&mut socket).await.1];
    assert_eq!(read(&mut { late }).await.unwrap_err().code(), Code::Timeout);
    given_up.reset(Code::Cancelled, "changed my mind");
    let mut substream = begin(&session, PATIENCE, &json!({}), br#"{"id":1,"method":"now"}"#).await;
    let (_, value) = line(&mut socket).await;
    for late in old {
        write(&mut socket, format!("{{\"id\":{},\"result\":\"late\"}}\n", late["id"])).await;
    }
    write(&mut socket, format!("{{\"id\":{},\"result\":\"now\"}}\n", value["id"])).await;
    assert_eq!(read(&mut substream).await.unwrap().body, br#"{"id":1,"result":"now"}"#);
}

#[tokio::test]
async fn what_is_no_json_rpc_is_told_so_and_not_sent() {
    let world = World::new("framing=lines").await;
    let session = world.session();
    for body in ["", "hello", "{\"id\":1", "[]", "{\"id\":1,\"id\":2}", "{\"a\":\"\n\"}"] {
        let end = call(&session, PATIENCE, body.as_bytes()).await.unwrap_err();
        assert_eq!(end.code(), Code::BadFrame, "{body:?}: {end}");
        assert!(end.to_string().contains("nothing was sent"), "{end}");
    }
    let mut socket = world.accept().await;
    let answer = call(&session, PATIENCE, b"{\"method\":\"first\"}").await.unwrap();
    assert!(answer.body.is_empty());
    assert_eq!(line(&mut socket).await.0, "{\"method\":\"first\"}\n");
}
