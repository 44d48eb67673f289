# The demo's agent: it tries what a stranger's program would try, and says what
# it got. It runs inside; nothing here can know more than the sandbox shows.
say() { printf '  %-38s %s\n' "$1" "$2"; }
try() { if out=$(eval "$2" 2>&1); then printf '%s' "${out:-worked}" | head -c 60; else printf 'NO  '; printf '%s' "$out" | tail -n 1 | sed 's/.*: //' | head -c 60; fi; }

say "who am I?" "$(id -un), uid $(id -u)"
say "read the project's code" "$(try code 'head -n 1 /workspace/project/app.py')"
say "read the project's .env" "[$(cat /workspace/project/.env)]  (empty: it is /dev/null)"
say "read config/id_rsa in it" "[$(cat /workspace/project/config/id_rsa)]"
say "change the project's code" "$(try write 'echo x >> /workspace/project/app.py')"
say "look into the person's home" "$(try home "ls '$1'")"
say "list the processes of the host" "$(ls /proc | grep -c '^[0-9]') visible, all of them mine"
say "become root" "$(try root 'unshare -Ur id')"
say "plant a setuid program" "$(try suid 'cp /bin/sh /workspace/group/sh && chmod 4755 /workspace/group/sh'; rm -f /workspace/group/sh)"
say "write to /usr" "$(try usr 'touch /usr/bin/evil')"
say "find the service's key" "SHOP_KEY=$SHOP_KEY"
say "use the service all the same" "$(try service "curl -sS --max-time 10 -H 'Authorization: Bearer $SHOP_KEY' '$2'")"
say "reach another port of this machine" "$(try local 'curl -sS --max-time 10 http://127.0.0.1:631/ | grep -o "an address of this machine" | sed "s,^,NO  ,"')"
say "send a packet past the gateway" "$(try net "bash -c 'exec 3<>/dev/tcp/192.0.2.1/22'")"
say "write my result" "$(try result 'echo "reviewed: 1 file" > /workspace/group/result.txt')"
