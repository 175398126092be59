#!/usr/bin/env bash
# Package:  de.bwaldvogel:mongo-java-server 1.47.0 (Maven), a MongoDB server in memory for tests, with its
#           oplog on, watched by the official Java driver 5.5.1.
# Expected: the change stream has one event for each document that changes. An update names its document in
#           documentKey and the changed fields in updateDescription, and a replacement is a `replace`.
# Happens:  the documentKey of an update is the update statement, {"$set": ...}, so it has no _id, and there
#           is no updateDescription. The statement's $set fields stand as fullDocument, although no look-up
#           was asked for. Three documents changed by one updateMany give three equal events. A replacement
#           is an `update` too. findOneAndUpdate and findOneAndDelete change the collection and give no
#           event at all. Inserts, deletes and the place to resume from are right.
# Matters:  a cache or a copy that follows the stream can't be tested on it: its code for updates gets keys
#           that no document has, and what findAndModify writes never arrives. A test with inserts and
#           deletes passes.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > pom.xml <<'XML'
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>de.bwaldvogel</groupId>
      <artifactId>mongo-java-server</artifactId>
      <version>1.47.0</version>
    </dependency>
    <dependency>
      <groupId>org.mongodb</groupId>
      <artifactId>mongodb-driver-sync</artifactId>
      <version>5.5.1</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-nop</artifactId>
      <version>2.0.17</version>
    </dependency>
  </dependencies>
</project>
XML
mvn --quiet --batch-mode --file pom.xml \
  org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DoutputDirectory=lib \
  > mvn.log 2>&1 || { cat mvn.log >&2; exit 2; }

cat > Finding.java <<'JAVA'
import com.mongodb.client.MongoClients;
import com.mongodb.client.model.Filters;
import com.mongodb.client.model.Updates;
import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.ServerVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Function;
import org.bson.Document;

public class Finding {
    static boolean holds = true;

    static void check(String what, String expected, String wrong, List<String> seen) {
        System.out.printf("%s%n  expected: %s%n  seen:     %s%n", what, expected, seen);
        holds &= seen.toString().equals(wrong);
    }

    public static void main(String[] args) {
        var backend = new MemoryBackend();
        backend.version(ServerVersion.MONGO_5_0);
        var server = new MongoServer(backend);
        server.enableOplog();
        try (var client = MongoClients.create(server.bindAndGetConnectionString())) {
            var items = client.getDatabase("shop").getCollection("items");
            var cursor = items.watch().maxAwaitTime(100, TimeUnit.MILLISECONDS).cursor();
            // The events of one write: those before the marker that is inserted after it.
            var markers = new AtomicInteger(100);
            Function<Runnable, List<String>> events = write -> {
                write.run();
                var marker = markers.getAndIncrement();
                var end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
                items.insertOne(new Document("_id", marker));
                var list = new ArrayList<String>();
                while (System.nanoTime() < end) {
                    var event = cursor.tryNext();
                    if (event == null) {
                        continue;
                    }
                    var key = event.getDocumentKey().toJson();
                    if (key.equals("{\"_id\": " + marker + "}")) {
                        return list;
                    }
                    var full = event.getFullDocument() == null ? "-" : event.getFullDocument().toJson();
                    var changed = event.getUpdateDescription() == null ? "-" : "present";
                    list.add(event.getOperationTypeString() + " key " + key + " document " + full
                        + " updateDescription " + changed);
                }
                list.add("no marker");
                return list;
            };

            check("insert {_id: 1, n: 1}", "an insert of _id 1",
                "[insert key {\"_id\": 1} document {\"_id\": 1, \"n\": 1} updateDescription -]",
                events.apply(() -> items.insertOne(new Document("_id", 1).append("n", 1))));
            check("updateOne _id 1, {$set: {n: 2}}", "an update of _id 1, with updateDescription",
                "[update key {\"$set\": {\"n\": 2}} document {\"n\": 2} updateDescription -]",
                events.apply(() -> items.updateOne(Filters.eq(1), Updates.set("n", 2))));
            check("replaceOne _id 1 by {n: 3}", "a replace of _id 1",
                "[update key {\"n\": 3, \"_id\": 1} document {} updateDescription -]",
                events.apply(() -> items.replaceOne(Filters.eq(1), new Document("n", 3))));
            items.insertMany(List.of(new Document("_id", 2), new Document("_id", 3)));
            events.apply(() -> { });
            var inc = "update key {\"$inc\": {\"n\": 1}} document {} updateDescription -";
            check("updateMany of _id 1, 2 and 3, {$inc: {n: 1}}", "updates of _id 1, 2 and 3",
                List.of(inc, inc, inc).toString(),
                events.apply(() -> items.updateMany(Filters.lte("_id", 3), Updates.inc("n", 1))));
            check("findOneAndUpdate _id 1, {$set: {n: 9}}", "an update of _id 1", "[]",
                events.apply(() -> items.findOneAndUpdate(Filters.eq(1), Updates.set("n", 9))));
            holds &= items.find(Filters.eq(1)).first().getInteger("n") == 9;
            check("findOneAndDelete _id 1", "a delete of _id 1", "[]",
                events.apply(() -> items.findOneAndDelete(Filters.eq(1))));
            holds &= items.find(Filters.eq(1)).first() == null;
            check("deleteOne _id 2", "a delete of _id 2",
                "[delete key {\"_id\": 2} document - updateDescription -]",
                events.apply(() -> items.deleteOne(Filters.eq(2))));
            cursor.close();
        } finally {
            server.shutdownNow();
        }
        System.out.println(holds ? "still so" : "CHANGED");
        System.exit(holds ? 0 : 1);
    }
}
JAVA
echo "version: mongo-java-server 1.47.0, mongodb-driver-sync 5.5.1"
java -cp 'lib/*' Finding.java
