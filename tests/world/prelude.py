import base64, json, os, re, socket, ssl, struct, sys, threading, time
OUTSIDE = globals().get('OUTSIDE', False)
SLOW = globals().get('SLOW', 1)
socket.setdefaulttimeout(8 * min(SLOW, 4))

def tell(name, answer):
    print(json.dumps({'name': name, 'answer': answer if isinstance(answer, str) else json.dumps(answer)}), flush=True)

def attempt(name, what):
    try:
        answer = what()
        tell(name, 'ok' if answer is None else answer)
    except Exception as error:
        tell(name, '%s: %s' % (type(error).__name__, error))

def rest(stream, limit=1 << 20):
    """All that comes until the other side closes, or says nothing for a while."""
    data = b''
    try:
        while len(data) < limit:
            piece = stream.recv(65536)
            if not piece:
                break
            data += piece
            # On a slow machine it is the first answer that takes long.
            if SLOW > 4 and stream.gettimeout() and len(data) == len(piece):
                stream.settimeout(max(1.5, stream.gettimeout() / 4))
    except (OSError, ssl.SSLError) as error:
        if not data:
            return ('%s: %s' % (type(error).__name__, error)).encode()
    return data

def tcp(host, port):
    return socket.create_connection((host, port))

def context(alpn=('http/1.1',), verify=True):
    made = ssl.create_default_context()
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made

def tls(stream, name, alpn=('http/1.1',), verify=True):
    # One name in the hello, whatever the certificate is looked at for.
    made = context(alpn, verify)
    return made.wrap_socket(stream, server_hostname=name)

def head(stream):
    data = b''
    while b'\r\n\r\n' not in data:
        piece = stream.recv(1)
        if not piece:
            break
        data += piece
    return data

def connect(target, more=b''):
    """Through the proxy, as CONNECT; the stream, and the first line of the answer."""
    stream = tcp('127.0.0.1', 3128)
    if isinstance(target, str):
        target = target.encode()
    stream.sendall(b'CONNECT ' + target + b' HTTP/1.1\r\nHost: ' + target + b'\r\n\r\n' + more)
    return stream, head(stream).split(b'\r\n')[0].decode('latin-1')

def proxied(name, port=443, sni=None, verify=True, alpn=('http/1.1',)):
    stream, line = connect('%s:%d' % (name, port))
    if ' 200' not in line:
        raise OSError(line)
    return tls(stream, sni or name, alpn, verify)

def transparent(name, port=443, sni=None, verify=True, alpn=('http/1.1',)):
    return tls(tcp(name, port), sni or name, alpn, verify)

def exchange(stream, data, wait=1.5):
    """Sends and returns all that comes back within a while."""
    if isinstance(data, str):
        data = data.encode('latin-1')
    # An answer takes no handshake; many exchanges have none, and end by this.
    stream.settimeout(wait * min(SLOW, 5))
    try:
        stream.sendall(data)
    except OSError as error:
        return ('%s: %s' % (type(error).__name__, error)).encode()
    return rest(stream)

def statuses(answer):
    return [int(code) for code in re.findall(rb'HTTP/1\.1 (\d\d\d)', answer)]

def get(host, path, extra='', method='GET'):
    return '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n' % (method, path, host, extra)
