"""A OneCLI 2.0.1 as its interface is described: agents, container configuration,
and a proxy that opens TLS with an authority of its own and adds a credential.

onecli.py DIR API_PORT PROXY_PORT: writes DIR/log.jsonl; answers 401 while
DIR/refuse exists, and hands out another token while DIR/wrong-token exists."""
import base64, json, os, socket, ssl, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

place, api_port, proxy_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
KEY, TOKEN = 'oc_api-key-77aa', 'aoc_agent-token-55bb'
agents, lock = set(), threading.Lock()

def note(**what):
    with lock, open(os.path.join(place, 'log.jsonl'), 'a') as log:
        log.write(json.dumps(what) + '\n')

def openssl(*arguments):
    subprocess.run(['openssl', *arguments], cwd=place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

NAMES = 'DNS:api.anthropic.com,DNS:a.test,DNS:b.test'
openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'ca.key', '-out', 'ca.crt',
        '-subj', '/CN=OneCLI', '-days', '2', '-addext', 'basicConstraints=critical,CA:TRUE')
openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'leaf.key', '-out', 'leaf.csr', '-subj', '/CN=leaf')
with open(os.path.join(place, 'leaf.ext'), 'w') as extensions:
    extensions.write('subjectAltName=%s\n' % NAMES)
openssl('x509', '-req', '-in', 'leaf.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-out', 'leaf.crt', '-days', '2', '-extfile', 'leaf.ext', '-CAcreateserial')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(place, 'leaf.crt'), os.path.join(place, 'leaf.key'))
context.set_alpn_protocols(['http/1.1'])

class Api(BaseHTTPRequestHandler):
    def answer(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def allowed(self):
        if os.path.exists(os.path.join(place, 'refuse')) or self.headers.get('authorization') != 'Bearer ' + KEY:
            self.answer(401, {'error': 'invalid api key'})
            return False
        return True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get('content-length', 0))) or '{}')
        note(call='POST ' + self.path, body=body)
        if self.allowed():
            known = body['identifier'] in agents
            agents.add(body['identifier'])
            self.answer(409 if known else 201, {'identifier': body['identifier']})

    def do_GET(self):
        note(call='GET ' + self.path)
        if not self.allowed():
            return
        agent = parse_qs(urlparse(self.path).query).get('agent', [''])[0]
        if agent not in agents:
            return self.answer(404, {'error': 'no such agent'})
        token = 'aoc_wrong' if os.path.exists(os.path.join(place, 'wrong-token')) else TOKEN
        proxy = 'http://x:%s@127.0.0.1:%d' % (token, proxy_port)
        with open(os.path.join(place, 'ca.crt')) as authority:
            self.answer(200, {'env': {'HTTPS_PROXY': proxy, 'HTTP_PROXY': proxy, 'NODE_USE_ENV_PROXY': '1',
                'NODE_EXTRA_CA_CERTS': '/tmp/onecli.pem', 'ANTHROPIC_API_KEY': 'placeholder'},
                'caCertificate': authority.read(), 'caCertificateContainerPath': '/tmp/onecli.pem'})

    def log_message(self, *arguments):
        pass

def head(stream):
    data = b''
    while b'\r\n\r\n' not in data:
        piece = stream.recv(1)
        if not piece:
            return data.decode('latin-1')
        data += piece
    return data.decode('latin-1')

def serve(stream):
    try:
        asked = head(stream)
        first = asked.split('\r\n')[0]
        wanted = 'proxy-authorization: basic ' + base64.b64encode(('x:' + TOKEN).encode()).decode()
        authorized = any(line.lower() == wanted.lower() for line in asked.split('\r\n'))
        note(proxy=first, authorized=authorized)
        if not authorized:
            return stream.sendall(b'HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n')
        if first.startswith('CONNECT '):
            stream.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
            stream = context.wrap_socket(stream, server_side=True)
            while asked := head(stream):
                respond(stream, asked)
        else:
            respond(stream, asked)
    except OSError as error:
        note(broke=str(error))
    finally:
        stream.close()

def respond(stream, asked):
    note(request=asked)
    text = ('onecli answers %s; token %s' % (asked.split('\r\n')[0], TOKEN)).encode()
    stream.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n' % len(text) + text)

def proxy():
    listener = socket.create_server(('127.0.0.1', proxy_port), backlog=64)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=serve, args=(stream,), daemon=True).start()

threading.Thread(target=proxy, daemon=True).start()
api = ThreadingHTTPServer(('127.0.0.1', api_port), Api)
note(ready=True)
api.serve_forever()
