// pgjdbc and HikariCP: a session, the console, the next host, a switchover.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.StringReader;
import java.io.StringWriter;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import org.postgresql.PGConnection;

public class WithPgjdbc {
    static final String PORT = System.getenv("PORT");
    static final String REFUSING = System.getenv("REFUSING");
    static final int TARGET_PORT = Integer.parseInt(System.getenv("TARGET_PORT"));
    static final String APP = "?user=app&password=app-secret";
    static final String ADMIN = "?user=admin&password=admin-secret";

    public static void main(String[] arguments) throws Exception {
        String host = "jdbc:postgresql://127.0.0.1:" + PORT;
        try (Connection conn = DriverManager.getConnection(host + "/app" + APP)) {
            session(conn);
        }
        console(host + "/pgsluice" + ADMIN);
        nextHost();
        switchover(host);
    }

    static void session(Connection conn) throws Exception {
        try (PreparedStatement plus = conn.prepareStatement("SELECT ?::int + 1")) {
            // From the fifth time on it is a named statement of the server.
            for (int i = 0; i < 8; i++) {
                plus.setInt(1, i);
                check(one(plus.executeQuery()) == i + 1, "prepared");
            }
        }
        Statement st = conn.createStatement();
        st.execute("CREATE TEMP TABLE t (a int)");
        var copy = conn.unwrap(PGConnection.class).getCopyAPI();
        StringBuilder rows = new StringBuilder();
        for (int i = 0; i < 1000; i++) {
            rows.append(i).append('\n');
        }
        check(copy.copyIn("COPY t FROM STDIN", new StringReader(rows.toString())) == 1000, "COPY IN");
        StringWriter out = new StringWriter();
        check(copy.copyOut("COPY t TO STDOUT", out) == 1000, "COPY OUT");

        conn.setAutoCommit(false);
        try (Statement cursor = conn.createStatement()) {
            cursor.setFetchSize(10);
            ResultSet result = cursor.executeQuery("SELECT a FROM t");
            int sum = 0;
            while (result.next()) {
                sum += result.getInt(1);
            }
            check(sum == 499500, "portal");
        }
        conn.commit();
        conn.setAutoCommit(true);

        st.execute("LISTEN news");
        st.execute("NOTIFY news, 'one'");
        var heard = conn.unwrap(PGConnection.class).getNotifications(30_000);
        check(heard.length == 1 && heard[0].getParameter().equals("one"), "notification");

        try (PreparedStatement batch = conn.prepareStatement("INSERT INTO t VALUES (?)")) {
            for (int i = 0; i < 500; i++) {
                batch.setInt(1, i);
                batch.addBatch();
            }
            check(batch.executeBatch().length == 500, "batch");
        }

        Statement slow = conn.createStatement();
        slow.setQueryTimeout(1);
        check(state(() -> slow.execute("SELECT pg_sleep(600)")).equals("57014"), "query timeout");
        check(conn.isValid(30) && one(st.executeQuery("SELECT 1")) == 1, "alive after it");
    }

    static void console(String url) throws Exception {
        for (String mode : new String[] {"extended", "simple"}) {
            try (Connection conn = DriverManager.getConnection(url + "&preferQueryMode=" + mode)) {
                Statement st = conn.createStatement();
                ResultSet row = st.executeQuery("SHOW DATABASES");
                check(row.next() && row.getString("name").equals("app"), mode);
                check(row.getInt("pool_size") == 50, mode);
                check(state(() -> st.execute("SHOW NONSENSE")).equals("42601"), mode);
                conn.setAutoCommit(false);
                check(st.executeQuery("SHOW STATS").next(), mode);
                conn.commit();
                check(conn.isValid(30), mode);
            }
        }
    }

    static void nextHost() throws Exception {
        String refusing = "jdbc:postgresql://127.0.0.1:" + REFUSING + "/app" + APP;
        check(state(() -> DriverManager.getConnection(refusing)).equals("57P03"), "refused");
        String both = "127.0.0.1:" + REFUSING + ",127.0.0.1:" + PORT;
        for (String type : new String[] {"any", "primary"}) {
            String url = "jdbc:postgresql://" + both + "/app" + APP + "&targetServerType=" + type;
            try (Connection conn = DriverManager.getConnection(url)) {
                check(one(conn.createStatement().executeQuery("SELECT 1")) == 1, type);
            }
        }
    }

    static void switchover(String host) throws Exception {
        // Hikari asks a connection whether it is alive only if it was idle for longer than this.
        System.setProperty("com.zaxxer.hikari.aliveBypassWindowMs", "0");
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(host + "/app" + APP);
        config.setMaximumPoolSize(3);
        try (HikariDataSource pool = new HikariDataSource(config);
                Connection plain = DriverManager.getConnection(host + "/app" + APP);
                Connection admin = DriverManager.getConnection(host + "/pgsluice" + ADMIN)) {
            try (Connection conn = pool.getConnection()) {
                check(one(conn.createStatement().executeQuery("SELECT 1")) == 1, "hikari");
            }
            admin.createStatement().execute("SWITCHOVER main TO n2");
            Statement st = plain.createStatement();
            check(state(() -> st.execute("SELECT 1")).equals("57P01"), "told");
            check(plain.isClosed(), "closed");
            for (int i = 0; i < 3; i++) {
                try (Connection conn = pool.getConnection()) {
                    ResultSet port = conn.createStatement().executeQuery("SELECT inet_server_port()");
                    check(one(port) == TARGET_PORT, "hikari does not notice");
                }
            }
        }
    }

    interface Deed {
        void run() throws SQLException;
    }

    static String state(Deed deed) {
        try {
            deed.run();
        } catch (SQLException error) {
            return String.valueOf(error.getSQLState());
        }
        throw new AssertionError("no error");
    }

    static int one(ResultSet result) throws SQLException {
        check(result.next(), "a row");
        return result.getInt(1);
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
